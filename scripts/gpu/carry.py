"""What a machine with a GPU and without a network needs from others, put into a folder elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from xlstm_export.native import gpu_programs, headers

from .records import native_checksum

HEADERS = {"TENSORRT_ROOT": headers.TENSORRT, "ONNXRUNTIME_ROOT": headers.ONNXRUNTIME}
"""By the variable that `xlstm_export.native.toolchain` and CMake look into for include/."""
PACKAGES = (
    "mlstm_kernels==2.0.6",  # Triton's kernels, which ours are timed against
    "einops",  # it needs
    "pyyaml",  # models/configs
    "ml_dtypes",
    "safetensors",
    "google-crc32c",
)
"""Of what this project and its peers import on a GPU, all but PyTorch, NumPy and their own requirements."""


def carry(folder: Path, python: str, target: str | None = None) -> None:
    """Fill the folder.

    Args:
        folder: made if need be.
        python: version of the interpreter there, `3.12`.
        target: architecture of the GPU there, to bring the programs for it.
    """
    for variable, package in HEADERS.items():
        shutil.copytree(headers.fetch_headers(package), folder / variable / "include", dirs_exist_ok=True)
    where = ["--target", str(folder / "python"), "--upgrade", "--no-deps"]
    platform = ["--python-version", python, "--only-binary=:all:"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *where, *platform, *PACKAGES], check=True)
    if target:
        sources = native_checksum()
        built, programs = gpu_programs.build_gpu_programs(target), folder / "programs"
        for part in ("bin", "lib"):
            shutil.copytree(built / part, programs / part, dirs_exist_ok=True)
        (programs / "sources").write_text(sources)


def use(folder: Path) -> None:
    """Have this process and those that it starts find what is in the folder."""
    if not (folder / "python").is_dir():
        sys.exit(f"error: {folder} was not filled by `gpu_check.py carry`")
    for variable in HEADERS:
        os.environ.setdefault(variable, str((folder / variable).resolve()))
    packages = str((folder / "python").resolve())
    sys.path.append(packages)  # after what is installed
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), packages]))
    programs = (folder / "programs").resolve()
    if programs.is_dir():
        if (programs / "sources").read_text() == native_checksum():
            os.environ[gpu_programs.FOLDER_VARIABLE] = str(programs)
        else:
            print(f"{programs} is of other sources than these: compiling", flush=True)
