"""Builds targets of plugins/ for tests, in a folder that later runs reuse."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "plugins"


def build(targets: str, *options: str) -> Path:
    """The build folder after building `targets` (separated by spaces) with these CMake options.

    XLSTM_TEST_BUILD_DIR says where it lies.
    """
    default = Path(tempfile.gettempdir()) / f"xlstm-export-tests-{os.getuid()}"
    name = hashlib.sha256("\n".join([str(SOURCE), *options]).encode()).hexdigest()[:12]
    folder = Path(os.environ.get("XLSTM_TEST_BUILD_DIR", default)) / name
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:  # two workers must not build in one folder at a time
        fcntl.flock(lock, fcntl.LOCK_EX)
        _run("cmake", "-S", str(SOURCE), "-B", str(folder), *generator, *options)
        _run("cmake", "--build", str(folder), "--target", *targets.split(), "--parallel", "2")
    return folder


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
