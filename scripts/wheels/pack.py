"""Wheels from what was compiled, and what they need of the system that they are installed on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from .old_linux import GLIBC

ROOT = Path(__file__).resolve().parents[2]
CUDA_PROJECT = Path(__file__).with_name("cuda")


def pack(project: Path, native: Path, machine: str, output: Path) -> Path:
    """The wheel of a project with a folder of compiled libraries inside, examined.

    Args:
        project: `ROOT` or `CUDA_PROJECT`.
        native: the folder.
        machine: `x86_64` or `aarch64`.
        output: where the wheel goes.
    """
    platform = f"manylinux_{GLIBC[0]}_{GLIBC[1]}_{machine}"
    environment = os.environ | {"XLSTM_EXPORT_PREBUILT": str(native), "XLSTM_EXPORT_PLATFORM": platform}
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(output), str(project)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    built = re.search(r"Successfully built (\S+\.whl)", done.stdout)
    if built is None:
        sys.exit(f"error: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    wheel = output / built[1]
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, {audit(wheel, machine)}", flush=True)
    return wheel


def audit(wheel: Path, machine: str) -> str:
    """The oldest system that takes the wheel, in auditwheel's words; ends the program where that is too new."""
    with zipfile.ZipFile(wheel) as file:
        programs = [i.filename for i in file.infolist() if file.open(i).read(4) == b"\x7fELF"]
        not_executable = [
            i.filename for i in file.infolist() if "/bin/" in i.filename and not i.external_attr >> 16 & 1
        ]
    if not programs or not_executable:
        sys.exit(f"error: {wheel} holds {len(programs)} native files; not executable: {not_executable}.")
    done = subprocess.run([sys.executable, "-m", "auditwheel", "show", str(wheel)], capture_output=True, text=True)
    found = re.search(r'following platform tag:\s*"manylinux_(\d+)_(\d+)_(\w+)"', done.stdout)
    if found is None or found[3] != machine or (int(found[1]), int(found[2])) > GLIBC:
        sys.exit(f"error: {wheel} is not for {machine} with glibc {GLIBC}:\n{done.stdout}{done.stderr}")
    needed = sorted(set(re.findall(r"lib[\w+-]+\.so[.\d]*(?= with versions)", " ".join(done.stdout.split()))))
    return f"{len(programs)} native files, as old as glibc {found[1]}.{found[2]}, which need {', '.join(needed)}"
