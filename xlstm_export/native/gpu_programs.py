"""Programs that run the kernels on this machine's GPU, for tests/gpu and scripts/gpu_check.py. They need a clone."""

from __future__ import annotations

from pathlib import Path

from ..nvidia.driver import list_gpus
from ..progress import Stage, no_progress
from . import cmake, toolchain


def why_none_can_run() -> str | None:
    """What is missing to compile and run them here; None: nothing."""
    if not list_gpus():
        return "no NVIDIA GPU is here"
    compiler = toolchain.cuda_compiler()
    return None if compiler.path else f"{compiler.name} is not here. {compiler.remedy}"


def build_gpu_programs(stage: Stage = no_progress) -> Path:
    """The build folder, with cell_runner_gpu, plugin_runner_gpu, operator_runner_gpu, libxlstm_launchers.so and
    the plugin in it.

    Raises:
        UserError: something is missing, or the compilation failed.
    """
    options: dict[str, object] = {
        "XLSTM_BUILD_RUNTIME": "OFF",
        "XLSTM_BUILD_TRT_PLUGIN": "ON",
        "XLSTM_BUILD_TESTS": "ON",
    }
    options |= cmake.cuda_options(list_gpus()[0].target.removeprefix("sm"))
    options |= cmake.header_options(["tensorrt", "onnxruntime"], stage)
    programs = ["cell_runner_gpu", "plugin_runner_gpu", "operator_runner_gpu", "xlstm_launchers"]
    return cmake.build(options, programs, stage)
