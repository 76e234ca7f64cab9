"""Headers of other projects, for a machine that has none: taken out of pip packages that carry them, and kept.

pip downloads the packages, from the index that this machine's pip is set up with, and holds them against the checksums
below. Nothing of them is installed or run.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..cache import cache_folder, kept_folder
from ..errors import ErrorKind, UserError
from ..progress import Stage, no_progress

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """Headers inside one file of a package index."""

    title: str
    name: str
    version: str
    sha256: str
    root: str
    """The folder inside the file that an `#include` is relative to."""
    below: str
    """Of that folder, the part that is taken; empty: all of it."""
    backend: str = ""
    """Of a source distribution, the module that builds it. Empty: a wheel."""

    @property
    def source(self) -> str:
        """`numpy 2.2.6`."""
        return f"{self.name} {self.version}"

    @property
    def folder(self) -> Path:
        """Where the headers are kept."""
        return cache_folder() / "include" / f"{self.name}-{self.version}"


HIGHWAY = Package(
    "Google Highway's headers",
    "numpy",
    "2.2.6",
    "e29554e2bef54a90aa5cc07da6ce955accb83f21ab5de01a62c8478897b264fd",
    "numpy-2.2.6/numpy/_core/src/highway/",
    "hwy/",
    backend="mesonpy",
)
"""Highway 1.2 (Apache-2.0 or BSD-3-Clause), a part of numpy's sources."""

ONNXRUNTIME = Package(
    "ONNX Runtime's headers",
    "amd-quark",
    "0.9",
    "313e1260e2884c986119e4e8d38307d8085d9c20aaa84a0192d236a856225efc",
    "quark/onnx/operators/custom_ops/include/onnxruntime-1.17.0/onnxruntime/core/session/",
    "",
)
"""Those of ONNX Runtime 1.17 (MIT), which that package compiles operators of its own with."""

TENSORRT = Package(
    "TensorRT's headers",
    "kernel-lens",
    "2.0.1",
    "07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0",
    "kernel_lens/include/tensorrt/",
    "",
)
"""Those of TensorRT 10.14 (Apache-2.0)."""


def fetch_headers(package: Package, stage: Stage = no_progress) -> Path:
    """The folder to include from, downloaded unless it is there already.

    Raises:
        UserError: pip could not download the package, or it is not what it was; nothing is kept then.
    """

    def make(scratch: Path) -> Path:
        stage(f"Fetching {package.title}", None)
        staging = scratch / "headers"
        for path, data in _headers(package, _download(package, scratch)):
            target = staging / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return staging

    return kept_folder(package.folder, make)


def _download(package: Package, scratch: Path) -> Path:
    requirement = f"{package.name}=={package.version}"
    (scratch / "requirements.txt").write_text(f"{requirement} --hash=sha256:{package.sha256}\n")
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--ignore-requires-python"]
    environment = dict(os.environ)
    if package.backend:
        options += [f"--no-binary={package.name}", "--no-build-isolation"]
        environment["PYTHONPATH"] = str(_stand_in(package, scratch / "backend"))
    else:
        options += ["--only-binary=:all:"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options]
        + ["--require-hashes", "--requirement", str(scratch / "requirements.txt"), "--dest", str(scratch / "files")],
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
    )
    _log.debug("%s\n%s", shlex.join(done.args), done.stderr)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        reasons = [line for line in said if line.startswith("ERROR:")] or said[-1:] or ["it gave no reason"]
        raise UserError(
            ErrorKind.unavailable,
            f"pip could not download {requirement}, which holds {package.title}: {reasons[-1].removeprefix('ERROR: ')}",
        )
    (file,) = (scratch / "files").iterdir()
    return file


def _stand_in(package: Package, folder: Path) -> Path:
    """A module in the place of the package's build backend, for PYTHONPATH.

    Before pip keeps a source distribution, it asks the backend for the name and version. This one knows nothing else,
    so that nothing of the package is run or compiled, and no real backend is needed.
    """
    folder.mkdir()
    stem = f"{package.name.replace('-', '_')}-{package.version}"
    metadata = f"Metadata-Version: 2.1\nName: {package.name}\nVersion: {package.version}\n"
    (folder / f"{package.backend}.py").write_text(
        "import pathlib\n"
        "def prepare_metadata_for_build_wheel(folder, config_settings=None):\n"
        f"    made = pathlib.Path(folder, {stem + '.dist-info'!r})\n"
        "    made.mkdir()\n"
        f"    (made / 'METADATA').write_text({metadata!r})\n"
        "    return made.name\n"
    )
    return folder


def _headers(package: Package, file: Path) -> Iterator[tuple[str, bytes]]:
    """The headers in a wheel or a .tar.gz: paths below the root, and contents."""
    wanted = re.compile(re.escape(package.root) + f"({re.escape(package.below)}[^:]*\\.h)")
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as wheel:
            for name in wheel.namelist():
                if match := wanted.fullmatch(name):
                    yield match[1], wheel.read(name)
    else:
        with tarfile.open(file) as archive:
            for member in archive:
                if member.isfile() and (match := wanted.fullmatch(member.name)):
                    content = archive.extractfile(member)
                    assert content is not None  # it is a file
                    yield match[1], content.read()
