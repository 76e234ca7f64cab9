"""Programs that run the kernels on this machine's GPU, for tests/gpu and scripts/gpu_check.py. They need a clone."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..nvidia.driver import list_gpus
from ..progress import Stage, no_progress
from . import cmake, toolchain

PROGRAMS = ("cell_runner_gpu", "xlstm_launchers")
PLUGIN_PROGRAMS = ("plugin_runner_gpu", "xlstm_plugin_calls")
"""These need TensorRT's headers."""
OPERATOR_PROGRAMS = ("operator_runner_gpu",)
"""These need ONNX Runtime's headers."""


def why_none_can_run() -> str | None:
    """What is missing to compile and run them here; None: nothing."""
    if not list_gpus():
        return "no NVIDIA GPU is here"
    compiler = toolchain.cuda_compiler()
    return None if compiler.path else f"{compiler.name} is not here. {compiler.remedy}"


def build_gpu_programs(target: str | None = None, stage: Stage = no_progress) -> Path:
    """The build folder: bin/ has the programs, lib/ the libraries. Left out is what needs headers of others that are
    neither here nor can be fetched.

    Args:
        target: the architecture, `sm90`; None: that of this machine's GPU.
        stage: progress.

    Raises:
        UserError: something else is missing, or the compilation failed.
    """
    target = target or list_gpus()[0].target
    options: dict[str, object] = {"XLSTM_BUILD_RUNTIME": "OFF", "XLSTM_BUILD_TESTS": "ON"}
    options |= cmake.cuda_options(target.removeprefix("sm"))
    # One architecture leaves most cores idle; nvcc then compiles the kernels of a file side by side.
    options["CMAKE_CUDA_FLAGS"] = "-split-compile=0"
    programs = list(PROGRAMS)
    for header, switch, more in (
        ("tensorrt", {"XLSTM_BUILD_TRT_PLUGIN": "ON"}, PLUGIN_PROGRAMS),
        ("onnxruntime", {}, OPERATOR_PROGRAMS),
    ):
        try:
            options |= cmake.header_options([header], stage) | switch
        except UserError:
            continue
        programs += more
    return cmake.build(options, programs, stage)
