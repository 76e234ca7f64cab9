"""Builds the programs that run the kernels on this machine's GPU."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

from support.native_build import build
from xlstm_export.native import toolchain


@functools.cache
def why_not() -> str | None:
    """Why nothing can run on a GPU here, or None."""
    if shutil.which("nvidia-smi") is None:
        return "no GPU: nvidia-smi is not on this machine"
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    if listed.returncode or "GPU 0" not in listed.stdout:
        return f"no GPU: nvidia-smi says {(listed.stdout + listed.stderr).strip()!r}"
    compiler = toolchain.cuda_compiler()
    return None if compiler.path else f"{compiler.name} is not here. {compiler.remedy}"


@functools.cache
def architecture() -> str:
    """The compute capability of this machine's GPU, as "86"."""
    capability = subprocess.run(
        ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"], capture_output=True, text=True, check=True
    )
    return capability.stdout.splitlines()[0].strip().replace(".", "")


@functools.cache
def build_for_this_gpu() -> Path:
    """The build folder. With TensorRT's headers it also holds the plugin and `plugin_runner_gpu`."""
    headers = toolchain.tensorrt_headers().path
    options = [f"-DTensorRT_INCLUDE_DIR={headers}"] if headers else ["-DXLSTM_TENSORRT=OFF"]
    targets = "cell_runner_gpu xlstm_launchers" + " plugin_runner_gpu" * bool(headers)
    return build(
        targets,
        "-DXLSTM_ONNXRUNTIME=OFF",
        f"-DCMAKE_CUDA_COMPILER={toolchain.cuda_compiler().require()}",
        f"-DCMAKE_CUDA_ARCHITECTURES={architecture()}",
        *options,
    )
