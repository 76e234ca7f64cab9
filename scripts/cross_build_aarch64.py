#!/usr/bin/env python3
"""Cross-compile the native libraries for 64-bit ARM, check what came out, run the CPU kernels' tests under qemu-user.

    scripts/cross_build_aarch64.py --output DIR               the libraries, for Orin, Thor and what comes after
    scripts/cross_build_aarch64.py --output DIR --no-cuda     only the ONNX Runtime library, with its CPU kernels

Needs g++-aarch64-linux-gnu, qemu-user and binutils (Debian, Ubuntu), and what `xlstm-export plugins build` needs.
Headers that are missing, and the CUDA runtime for aarch64, are fetched with pip.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from xlstm_export.cache import cache_folder
from xlstm_export.errors import UserError
from xlstm_export.native import cmake, toolchain
from xlstm_export.native.build import cuda_architectures
from xlstm_export.native.locate import ONNXRUNTIME_LIBRARY, TENSORRT_PLUGINS

TOOLS = ("aarch64-linux-gnu-g++", "qemu-aarch64", "readelf", "ctest")
TARGETS = "sm87,sm110"  # Orin, Thor
NEWEST_GLIBC = (2, 35)  # of Ubuntu 22.04, which JetPack 6 is made of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where to put the libraries")
    parser.add_argument("--no-cuda", action="store_true", help="only the CPU kernels, for ONNX Runtime")
    parser.add_argument("--target", default=TARGETS, metavar="SM,...", help="GPU architectures; default: %(default)s")
    options = parser.parse_args()
    for tool in TOOLS:
        if shutil.which(tool) is None:
            sys.exit(f"error: {tool} is not here; {Path(__file__).name} --help says what is needed.")
    try:
        folder = build(None if options.no_cuda else options.target.split(","))
    except UserError as error:
        sys.exit(f"error: {error}")
    options.output.mkdir(parents=True, exist_ok=True)
    for name in (ONNXRUNTIME_LIBRARY, *([] if options.no_cuda else [TENSORRT_PLUGINS])):
        print(f"{name}: {check(folder / 'lib' / name)}")
        shutil.copy2(folder / "lib" / name, options.output)
    command = ["ctest", "--test-dir", str(folder), "--output-on-failure", "--tests-regex", "^cpu_cells"]
    sys.exit(subprocess.run(command).returncode)


def build(targets: list[str] | None) -> Path:
    """The build folder; without CUDA where there are no targets."""
    settings: dict[str, object] = {
        "CMAKE_TOOLCHAIN_FILE": cmake.sources() / "cmake" / "aarch64-linux-gnu.cmake",
        "XLSTM_BUILD_RUNTIME": "OFF",
        "XLSTM_BUILD_ORT_OPERATORS": "ON",
        "XLSTM_BUILD_TESTS": "ON",
        **cmake.header_options(["onnxruntime", "highway"]),
    }
    programs = ["xlstm_onnxruntime", "test_cpu_cells"]
    if targets is not None:
        nvcc = toolchain.cuda_compiler().require()
        settings |= cmake.header_options(["tensorrt"])
        settings |= {
            "XLSTM_CUDA": "ON",
            "XLSTM_BUILD_TRT_PLUGIN": "ON",
            "XLSTM_CUDA_AARCH64": cuda_for_aarch64(nvcc),
            "CMAKE_CUDA_COMPILER": nvcc,
            "CMAKE_CUDA_ARCHITECTURES": cuda_architectures(targets),
        }
        programs.append("xlstm_tensorrt")
    return cmake.build(settings, programs)


def cuda_for_aarch64(nvcc: Path) -> Path:
    """A folder with include/, which is this machine's, and lib/, of the aarch64 wheel of the same release."""
    release = re.search(r"release (\d+\.\d+),", run(nvcc, "--version"))[1]
    folder = cache_folder() / "build" / f"cuda-{release}-aarch64"
    if not (folder / "lib" / "libcudart_static.a").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        run(*pip, "--platform=manylinux2014_aarch64", "--dest", folder, f"nvidia-cuda-runtime=={release}.*")
        with zipfile.ZipFile(next(folder.glob("nvidia_cuda_runtime-*.whl"))) as wheel:
            wheel.extractall(folder)
        top = re.search(r"^#\$ TOP=(.*)", run(nvcc, "--dryrun", "-x", "cu", "/dev/null"), re.MULTILINE)[1]
        (folder / "include").symlink_to(Path(top) / "include")
        (folder / "lib").symlink_to(folder / "nvidia" / "cu13" / "lib")
    return folder


def check(library: Path) -> str:
    """What the library is and needs; ends the program where it would not load on JetPack 6."""
    if not re.search(r"Machine: *AArch64", run("readelf", "-h", library)):
        sys.exit(f"error: {library} is not for aarch64.")
    asked = {tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_([\d.]+)", run("readelf", "-V", library))}
    newest = ".".join(map(str, max(asked)))
    if max(asked) > NEWEST_GLIBC:
        sys.exit(f"error: {library} needs glibc {newest}; JetPack 6 has {'.'.join(map(str, NEWEST_GLIBC))}.")
    needed = re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", library))
    return f"AArch64, needs glibc {newest} and {', '.join(needed)}"


def run(*command: object) -> str:
    """What a command printed; its failure ends the program."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
