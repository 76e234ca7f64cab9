"""A real Triton server with the Python back end, out of a package of the index; kept for later runs."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from support.triton_server import Installed

from xlstm_export.cache import cache_folder, kept_folder

WHEEL = "nvidia-pytriton==0.7.0 --hash=sha256:21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df\n"
"""Holds tritonserver 2.51, and what runs a model in each of Python 3.8 to 3.13."""
NUMPY = "numpy==1.26.4"
"""The last that this server was built for."""
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="session")
def triton() -> Installed:
    """The server's files. Skipped where this Python has no shared library, or no NumPy 1."""
    library = Path(sysconfig.get_config_var("LIBDIR") or "/", sysconfig.get_config_var("INSTSONAME") or "")
    if not library.name.startswith("libpython") or not library.is_file():
        pytest.skip(f"this Python has no shared library ({library}), which the server runs models with")
    if sys.version_info >= (3, 13):
        pytest.skip("there is no NumPy 1 for this Python, and this server was built for NumPy 1")

    def pip(*arguments: object) -> None:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
        subprocess.run(command, check=True, timeout=600)

    def make(scratch: Path) -> Path:
        (scratch / "wheel.txt").write_text(WHEEL)
        pip("download", "--no-deps", "--require-hashes", "-r", scratch / "wheel.txt", "-d", scratch / "wheel")
        pip("install", "--no-deps", "--target", scratch / "server" / "numpy", NUMPY)
        (wheel,) = (scratch / "wheel").iterdir()
        with zipfile.ZipFile(wheel) as archive:
            wanted = ("nvidia_pytriton.libs/", "pytriton/tritonserver/")
            archive.extractall(scratch / "server", [n for n in archive.namelist() if n.startswith(wanted)])
        server = scratch / "server" / "pytriton" / "tritonserver"
        stub = server / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
        stub.rename(server / "backends" / "python" / stub.name)
        (server / "bin" / "tritonserver").chmod(0o755)
        return scratch / "server"

    return Installed(kept_folder(cache_folder() / "triton" / f"pytriton-0.7.0-python-{PYTHON}", make), library.parent)
