"""The native code for tests: built by the package's driver of CMake, in folders that workers and later runs share."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

import onnxruntime
import pytest

from xlstm_export.native import cmake, toolchain
from xlstm_export.native.locate import ONNXRUNTIME_LIBRARY

ARCHITECTURES = "86-real;90"  # two, to be quick: machine code for one, and machine code and PTX for the other


@cache
def build_without_cuda(*targets: str) -> Path:
    """The build folder after building targets of everything that needs no CUDA."""
    headers = cmake.header_options(["onnxruntime", "highway", "tensorrt", "json"])
    return cmake.build({"XLSTM_BUILD_ORT_OPERATORS": "ON", "XLSTM_BUILD_TESTS": "ON", **headers}, targets)


@cache
def build_with_cuda(*targets: str) -> Path:
    """As above, of the TensorRT plugin and the runtime with all it can have. Without nvcc the test is skipped."""
    if (compiler := toolchain.cuda_compiler()).path is None:
        pytest.skip(f"{compiler.name} is not here. {compiler.remedy}")
    options = {"XLSTM_BUILD_TRT_PLUGIN": "ON", "XLSTM_RUNTIME_TRT": "ON", "XLSTM_BUILD_TESTS": "ON"}
    headers = cmake.header_options(["onnxruntime", "tensorrt", "json"])
    return cmake.build(options | cmake.cuda_options(ARCHITECTURES) | headers, targets)


@cache
def build_runtime() -> Path:
    """The C++ runtime as a user has it, with its programs and tests, and with CUDA code where that can be compiled."""
    build = build_with_cuda if toolchain.cuda_compiler().path else build_without_cuda
    programs = ("xlstm-generate", "xlstm-bench", "xlstm-forecast", "xlstm-pole", "xlstm-minimal")
    return build("xlstm_runtime", *programs, "runtime_tests")


def build_sanitized_runtime(sanitizer: str) -> Path:
    """The C++ runtime and its tests under `address` (and undefined behaviour) or `thread`."""
    options = {"XLSTM_BUILD_TESTS": "ON", "XLSTM_RUNTIME_TRT": "OFF", "CMAKE_BUILD_TYPE": "Debug"}
    headers = cmake.header_options(["onnxruntime", "json"])
    return cmake.build(options | headers | {"XLSTM_SANITIZE": sanitizer}, ["runtime_tests"])


def onnxruntime_operators() -> Path:
    """libxlstm_onnxruntime.so with the CPU kernels."""
    return build_without_cuda("xlstm_onnxruntime") / "lib" / ONNXRUNTIME_LIBRARY


def onnxruntime_library() -> Path:
    """The ONNX Runtime that Python itself runs."""
    return next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))


def environment() -> dict[str, str]:
    """This one, with ONNX Runtime where the C++ runtime finds it."""
    return os.environ | {"XLSTM_ONNXRUNTIME": str(onnxruntime_library())}


def run(*command: object, **options: object) -> str:
    """Run a command that must succeed; returns what it printed."""
    done = attempt(*command, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))} failed:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def attempt(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command that may fail."""
    options = {"env": environment(), "capture_output": True, "text": True, "timeout": 1200} | options
    return subprocess.run([str(part) for part in command], **options)
