"""Programs that run the kernels on this machine's GPU, for tests/gpu and scripts/gpu_check.py. They need a clone."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UserError
from ..nvidia.driver import list_gpus
from ..progress import Stage, no_progress
from . import cmake, toolchain

FOLDER_VARIABLE = "XLSTM_GPU_PROGRAMS"
"""Names a folder with programs that were built elsewhere, for a machine where that would take too long."""
PROGRAMS = ("cell_runner_gpu", "xlstm_launchers")
PLUGIN_PROGRAMS = ("plugin_runner_gpu", "xlstm_plugin_calls")
"""These need TensorRT's headers."""
OPERATOR_PROGRAMS = ("operator_runner_gpu",)
"""These need ONNX Runtime's headers."""


def why_none_can_run() -> str | None:
    """What is missing to compile and run them here; None: nothing."""
    if not list_gpus():
        return "no NVIDIA GPU is here"
    if os.environ.get(FOLDER_VARIABLE):
        return None
    compiler = toolchain.cuda_compiler()
    return None if compiler.path else f"{compiler.name} is not here. {compiler.remedy}"


def gpu_programs() -> Path:
    """The folder of those for this machine's GPU: bin/ has the programs, lib/ the libraries.

    Raises:
        UserError: as `build_gpu_programs`.
    """
    built = os.environ.get(FOLDER_VARIABLE)
    return Path(built) if built else build_gpu_programs(list_gpus()[0].target)


def build_gpu_programs(target: str, stage: Stage = no_progress) -> Path:
    """The build folder. Left out is what needs headers of others that are neither here nor can be fetched.

    Args:
        target: the architecture, `sm90`.
        stage: progress.

    Raises:
        UserError: something else is missing, or the compilation failed.
    """
    options: dict[str, object] = {"XLSTM_BUILD_RUNTIME": "OFF", "XLSTM_BUILD_TESTS": "ON"}
    options["CMAKE_BUILD_RPATH_USE_ORIGIN"] = "ON"  # the folder can be moved
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
