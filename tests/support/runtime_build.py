"""Builds plugins/runtime for tests, in a folder that later runs and other workers reuse."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import onnxruntime
import pytest

from xlstm_export.native import toolchain

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "plugins" / "runtime"


def onnxruntime_library() -> Path:
    """The library that Python itself runs."""
    return next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))


@cache
def custom_ops_library() -> Path:
    """libxlstm_onnxruntime.so, from the build folder that its own tests use."""
    from support.cpu_harness import harness_options
    from support.native_build import build as build_plugins

    return build_plugins("xlstm_onnxruntime", *harness_options()) / "lib" / "libxlstm_onnxruntime.so"


def environment() -> dict[str, str]:
    return os.environ | {"XLSTM_ONNXRUNTIME": str(onnxruntime_library())}


@cache
def build(*options: str) -> Path:
    """The build folder after building everything with these CMake options."""
    arguments = [
        f"-DXLSTM_ONNXRUNTIME_INCLUDE_DIR={toolchain.onnxruntime_headers().require()}",
        "-DXLSTM_ONNXRUNTIME=ON",
    ]
    if json := importlib.util.find_spec("nlohmann_json"):  # else CMake finds the system's
        arguments.append(f"-DXLSTM_JSON_INCLUDE_DIR={Path(json.origin).parent / 'include'}")
    arguments += options
    default = Path(tempfile.gettempdir()) / f"xlstm-export-tests-{os.getuid()}"
    name = hashlib.sha256("\n".join([str(SOURCE), *arguments]).encode()).hexdigest()[:12]
    folder = Path(os.environ.get("XLSTM_TEST_BUILD_DIR", default)) / f"runtime-{name}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        run("cmake", "-S", SOURCE, "-B", folder, *generator, *arguments)
        run("cmake", "--build", folder, "--parallel", "2")
    return folder


@cache
def release_build() -> Path:
    """The build of a user, with the TensorRT back end and the GPU's sampler where they can be compiled."""
    return build(*(_tensorrt_options() or ["-DXLSTM_TENSORRT=OFF"]), *_cuda_options())


def require_tensorrt_headers() -> None:
    """Skips the test where `release_build` has to leave the TensorRT back end out."""
    if not _tensorrt_options():
        pytest.skip("needs the headers of TensorRT (scripts/fetch_tensorrt_headers.py) and CUDA (nvidia-cuda-runtime)")


def _tensorrt_options() -> list[str]:
    headers = toolchain.tensorrt_headers().path
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(p) / "cu13" for p in (spec.submodule_search_locations if spec else [])]
    if (nvcc := toolchain.cuda_compiler().path) is not None:
        roots.append(nvcc.parents[1])
    cuda = next((root / "include" for root in roots if (root / "include" / "cuda_runtime_api.h").is_file()), None)
    if headers is None or cuda is None:
        return []
    return ["-DXLSTM_TENSORRT=ON", f"-DTensorRT_INCLUDE_DIR={headers}", f"-DXLSTM_CUDA_INCLUDE_DIR={cuda}"]


def _cuda_options() -> list[str]:
    nvcc = toolchain.cuda_compiler().path
    if nvcc is None:
        return []
    return [
        "-DXLSTM_CUDA=ON",
        f"-DCMAKE_CUDA_COMPILER={nvcc}",
        "-DCMAKE_CUDA_ARCHITECTURES=75",
    ]  # and newer, by its PTX


def run(*command: object, **options: object) -> str:
    """Run a command that must succeed; returns what it printed."""
    done = attempt(*command, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))} failed:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def attempt(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    options = {"env": environment(), "capture_output": True, "text": True, "timeout": 1200} | options
    return subprocess.run([str(part) for part in command], **options)
