"""A CUDA 12.6 for aarch64 that clang++ compiles with, put together from NVIDIA's wheels, which hold no nvcc before 13.

Clang takes CUDA's headers, libdevice, ptxas and fatbinary: machine code and runtime are those of that release.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from xlstm_export.cache import cache_folder, kept_folder

CLANG = "clang++-19"
VERSION = "12.6.85"
FOR_HERE = ("nvidia-cuda-nvcc-cu12==12.6.85", "nvidia-cuda-cccl-cu12==12.6.77", "nvidia-nvfatbin-cu12==12.6.77")
FOR_AARCH64 = ("nvidia-cuda-runtime-cu12==12.6.77",)
FATBINARY = Path(__file__).with_name("fatbinary.py")

# Clang includes this header of cuRAND, of which it uses nothing, right after its own intrinsics. Those lack the loads
# and stores that choose a cache (__ldcg): they come from CUDA's header, less what clang has.
CURAND_HEADER = """\
#undef __SM_32_INTRINSICS_HPP__
#define __ldg unused_ldg
#define __funnelshift_l unused_funnelshift_l
#define __funnelshift_r unused_funnelshift_r
#define __funnelshift_lc unused_funnelshift_lc
#define __funnelshift_rc unused_funnelshift_rc
#include <sm_32_intrinsics.hpp>
#undef __ldg
#undef __funnelshift_l
#undef __funnelshift_r
#undef __funnelshift_lc
#undef __funnelshift_rc
"""


def cuda_for_clang() -> Path:
    """The folder, for `clang++ --cuda-path`: put together once."""
    key = hashlib.sha256(Path(__file__).read_bytes() + FATBINARY.read_bytes()).hexdigest()[:12]
    return kept_folder(cache_folder() / "build" / f"cuda-{VERSION}-aarch64-{key}", _put_together)


def fetch_wheels(packages: Iterable[str], platform: str, folder: Path) -> Path:
    """What wheels of a platform hold, side by side in `folder`/nvidia, which is returned."""
    wheels = folder / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += [f"--platform=manylinux2014_{platform}", "--dest", str(wheels), *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: pip could not download {' '.join(packages)}:\n{done.stderr}")
    for file in wheels.iterdir():
        with zipfile.ZipFile(file) as wheel:
            wheel.extractall(folder)
    shutil.rmtree(wheels)
    return folder / "nvidia"


def _put_together(scratch: Path) -> Path:
    here = fetch_wheels(FOR_HERE, "x86_64", scratch / "here")
    there = fetch_wheels(FOR_AARCH64, "aarch64", scratch / "there") / "cuda_runtime"
    cuda = scratch / "cuda"
    for headers in (there, here / "cuda_nvcc", here / "cuda_cccl"):
        shutil.copytree(headers / "include", cuda / "include", dirs_exist_ok=True)
    (cuda / "include" / "curand_mtgp32_kernel.h").write_text(CURAND_HEADER)
    shutil.copytree(here / "cuda_nvcc" / "nvvm" / "libdevice", cuda / "nvvm" / "libdevice")
    shutil.copytree(there / "lib", cuda / "lib")
    (cuda / "lib" / "libcudart.so").symlink_to("libcudart.so.12")
    # CMake links what lets kernels launch kernels, too. The wheels have none, and we need none: an empty archive.
    (cuda / "lib" / "libcudadevrt.a").write_text("!<arch>\n")
    (cuda / "bin").mkdir()
    shutil.copy2(here / "cuda_nvcc" / "bin" / "ptxas", cuda / "bin")
    shutil.copy2(FATBINARY, cuda / "bin" / "fatbinary")
    shutil.copytree(here / "nvfatbin" / "lib", cuda / "lib-here")
    # CMake finds a CUDA, and its version, by asking its nvcc.
    (cuda / "bin" / "nvcc").write_text(f"#!/bin/sh\necho V{VERSION}\n")
    for program in (cuda / "bin").iterdir():
        program.chmod(0o755)
    return cuda
