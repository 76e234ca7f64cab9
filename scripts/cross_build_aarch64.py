#!/usr/bin/env python3
"""Cross-compile the native libraries for 64-bit ARM, check what came out, run the CPU kernels' tests under qemu-user.

    scripts/cross_build_aarch64.py --output DIR --jetpack 6    for Orin: sm87, CUDA 12.6
    scripts/cross_build_aarch64.py --output DIR --jetpack 7    for Thor: sm110, CUDA 13
    scripts/cross_build_aarch64.py --output DIR --no-cuda      only the ONNX Runtime library, with its CPU kernels

A driver runs no newer CUDA than its own, and JetPack 6 has that of CUDA 12.6, for which NVIDIA's wheels have no nvcc:
clang takes its place. Needs of Debian or Ubuntu g++-aarch64-linux-gnu, qemu-user and binutils, and for JetPack 6
clang-19; for JetPack 7 nvcc of CUDA 13, as `xlstm-export plugins build` does. Headers that are missing, and CUDA for
aarch64, are fetched with pip.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cuda_for_clang import CLANG, cuda_for_clang, fetch_wheels

from xlstm_export.cache import cache_folder, kept_folder
from xlstm_export.errors import UserError
from xlstm_export.native import cmake, fatbin, toolchain
from xlstm_export.native.locate import ONNXRUNTIME_LIBRARY, TENSORRT_PLUGINS

TOOLS = ("aarch64-linux-gnu-g++", "qemu-aarch64", "readelf", "ctest")


@dataclass(frozen=True)
class JetPack:
    """What a device's system is made of."""

    architecture: str
    glibc: tuple[int, int]


JETPACKS = {"6": JetPack("87", (2, 35)), "7": JetPack("110", (2, 39))}  # Ubuntu 22.04 and 24.04


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where to put the libraries")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--jetpack", choices=JETPACKS, help="the system that they are for")
    what.add_argument("--no-cuda", action="store_true", help="only the CPU kernels, for ONNX Runtime")
    options = parser.parse_args()
    for tool in (*TOOLS, *([CLANG] if options.jetpack == "6" else [])):
        if shutil.which(tool) is None:
            sys.exit(f"error: {tool} is not here; {Path(__file__).name} --help says what is needed.")
    try:
        folder = build(options.jetpack)
    except UserError as error:
        sys.exit(f"error: {error}")
    options.output.mkdir(parents=True, exist_ok=True)
    for name in (ONNXRUNTIME_LIBRARY, *([] if options.no_cuda else [TENSORRT_PLUGINS])):
        print(f"{name}: {check(folder / 'lib' / name, options.jetpack)}")
        shutil.copy2(folder / "lib" / name, options.output)
    command = ["ctest", "--test-dir", str(folder), "--output-on-failure", "--tests-regex", "^cpu_cells"]
    sys.exit(subprocess.run(command).returncode)


def build(jetpack: str | None) -> Path:
    """The build folder; without CUDA where it is for no JetPack."""
    settings: dict[str, object] = {
        "CMAKE_TOOLCHAIN_FILE": cmake.sources() / "cmake" / "aarch64-linux-gnu.cmake",
        "XLSTM_BUILD_RUNTIME": "OFF",
        "XLSTM_BUILD_ORT_OPERATORS": "ON",
        "XLSTM_BUILD_TESTS": "ON",
        **cmake.header_options(["onnxruntime", "highway"]),
    }
    programs = ["xlstm_onnxruntime", "test_cpu_cells"]
    if jetpack is not None:
        settings |= cmake.header_options(["tensorrt"]) | (with_clang() if jetpack == "6" else with_nvcc())
        settings |= {
            "XLSTM_CUDA": "ON",
            "XLSTM_BUILD_TRT_PLUGIN": "ON",
            "CMAKE_CUDA_ARCHITECTURES": JETPACKS[jetpack].architecture,
        }
        programs.append("xlstm_tensorrt")
    return cmake.build(settings, programs)


def with_clang() -> dict[str, object]:
    """Settings to compile with clang against CUDA 12.6. Its runtime stays outside: JetPack has libcudart.so.12."""
    cuda = cuda_for_clang()
    return {
        "CMAKE_CUDA_COMPILER": CLANG,
        "CMAKE_CUDA_RUNTIME_LIBRARY": "Shared",
        "CUDAToolkit_ROOT": cuda,
        "XLSTM_CUDA_AARCH64": cuda,
    }


def with_nvcc() -> dict[str, object]:
    """Settings to compile with this machine's nvcc, and CUDA's runtime for aarch64 of the same release."""
    nvcc = toolchain.cuda_compiler().require()
    release = re.search(r"release (\d+\.\d+),", run(nvcc, "--version"))[1]
    if not release.startswith("13."):
        sys.exit(f"error: JetPack 7 has CUDA 13, and {nvcc} is of CUDA {release}; CUDACXX chooses another.")
    top = re.search(r"^#\$ TOP=(.*)", run(nvcc, "--dryrun", "-x", "cu", "/dev/null"), re.MULTILINE)[1]

    def put_together(scratch: Path) -> Path:
        """include/, which is this machine's, and lib/, of the wheel."""
        wheel = fetch_wheels([f"nvidia-cuda-runtime=={release}.*"], "aarch64", scratch)
        (scratch / "cuda").mkdir()
        (wheel / "cu13" / "lib").rename(scratch / "cuda" / "lib")
        (scratch / "cuda" / "include").symlink_to(Path(top) / "include")
        return scratch / "cuda"

    cuda = kept_folder(cache_folder() / "build" / f"cuda-{release}-aarch64", put_together)
    return {"CMAKE_CUDA_COMPILER": nvcc, "XLSTM_CUDA_AARCH64": cuda}


def check(library: Path, jetpack: str | None) -> str:
    """What the library is and needs; ends the program where it would not load on that JetPack, or on 6 if on none."""
    system = JETPACKS[jetpack or "6"]
    if not re.search(r"Machine: *AArch64", run("readelf", "-h", library)):
        sys.exit(f"error: {library} is not for aarch64.")
    asked = {tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_([\d.]+)", run("readelf", "-V", library))}
    newest = ".".join(map(str, max(asked)))
    if max(asked) > system.glibc:
        sys.exit(f"error: {library} needs glibc {newest}; there is {'.'.join(map(str, system.glibc))}.")
    device_code = fatbin.architectures(library)
    if jetpack and f"sm_{system.architecture}" not in device_code:
        sys.exit(f"error: {library} has no code for sm_{system.architecture}.")
    needed = re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", library))
    return f"AArch64, {', '.join(device_code) or 'no device code'}, needs glibc {newest} and {', '.join(needed)}"


def run(*command: object) -> str:
    """What a command printed; its failure ends the program."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
