"""The native libraries of a wheel, compiled for old systems, as a folder that goes into the wheel."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from xlstm_export.native import cmake, toolchain
from xlstm_export.native.build import cuda_architectures
from xlstm_export.native.locate import ONNXRUNTIME_LIBRARY, TENSORRT_ONLOAD, TENSORRT_PLUGINS

from .old_linux import gcc, make_compiler, run

MACHINES = ("x86_64", "aarch64")
_APPS = ("xlstm-generate", "xlstm-bench", "xlstm-forecast", "xlstm-pole")
_LIBRARY_FOLDER = re.compile(r'"(-L[^"]+)"')  # of CUDA's runtime, in what nvcc says that it would do


def build_for_cpu(machine: str, scratch: Path) -> Path:
    """A folder with lib/, bin/ and include/: the operators for ONNX Runtime, the C++ library, its programs and CMake
    package.

    Args:
        machine: one of `MACHINES`.
        scratch: where to work; kept, so that the next time only what changed is compiled.
    """
    options = {
        **make_compiler(machine, scratch / f"compiler-{machine}").options(),
        **cmake.header_options(["onnxruntime", "highway", "json", "tensorrt", "cuda"]),
        "XLSTM_BUILD_ORT_OPERATORS": "ON",
        "XLSTM_RUNTIME_ORT": "ON",
        "XLSTM_RUNTIME_TRT": "ON",
        "CMAKE_INSTALL_LIBDIR": "lib",
        "CMAKE_PLATFORM_NO_VERSIONED_SONAME": "ON",  # a wheel has no links: one name, one file
    }
    folder = cmake.build(options, ["xlstm_onnxruntime", "xlstm_runtime", *_APPS])
    staged = scratch / f"native-{machine}"
    shutil.rmtree(staged, ignore_errors=True)
    for component in ("operators", "runtime"):
        run(toolchain.cmake().require(), "--install", folder, "--prefix", staged, "--component", component)
    return staged


def emulate_cpu_kernels(scratch: Path) -> str:
    """Compile the CPU kernels for aarch64 with their test, and run it under qemu-user.

    Returns what it printed; ends the program where it fails.
    """
    options = {
        **make_compiler("aarch64", scratch / "compiler-aarch64").options(),
        **cmake.header_options(["onnxruntime", "highway"]),
        "XLSTM_BUILD_RUNTIME": "OFF",
        "XLSTM_BUILD_ORT_OPERATORS": "ON",
        "XLSTM_BUILD_TESTS": "ON",
    }
    folder = cmake.build(options, ["test_cpu_cells"])
    return run("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", folder / "bin" / "test_cpu_cells", "NEON")


def build_for_cuda(targets: Iterable[str], scratch: Path) -> Path:
    """A folder with lib/: the plugins for TensorRT, and the operators for ONNX Runtime on CPUs and CUDA; x86-64 alone.

    Args:
        targets: GPU architectures such as `sm89`; none: those of a release.
        scratch: where to work, and kept.
    """
    options = make_compiler("x86_64", scratch / "compiler-x86_64").options()
    cuda = cmake.cuda_options(cuda_architectures(targets))
    steps = run(str(cuda["CMAKE_CUDA_COMPILER"]), "--dryrun", "-x", "cu", "/dev/null")
    options["CMAKE_SHARED_LINKER_FLAGS"] = " ".join(
        [str(options["CMAKE_SHARED_LINKER_FLAGS"]), *_LIBRARY_FOLDER.findall(steps)]
    )
    options |= {
        **cmake.header_options(["onnxruntime", "highway", "tensorrt"]),
        **cuda,
        "CMAKE_CUDA_HOST_COMPILER": shutil.which(gcc("x86_64")),
        "XLSTM_BUILD_RUNTIME": "OFF",
        "XLSTM_BUILD_ORT_OPERATORS": "ON",
        "XLSTM_BUILD_TRT_PLUGIN": "ON",
    }
    folder = cmake.build(options, ["xlstm_onnxruntime", "xlstm_tensorrt", "xlstm_tensorrt_onload"])
    staged = scratch / "native-cuda"
    shutil.rmtree(staged, ignore_errors=True)
    (staged / "lib").mkdir(parents=True)
    for name in (ONNXRUNTIME_LIBRARY, TENSORRT_PLUGINS, TENSORRT_ONLOAD):
        shutil.copy2(folder / "lib" / name, staged / "lib")
    return staged
