"""ONNX Runtime and a tokenizer for browsers: taken out of npm packages, and kept.

npm downloads the packages, from the registry that this machine's npm is set up with; they are held against the
checksums below. Nothing of them is run or installed.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import shlex
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from ..cache import cache_folder, kept_folder
from ..errors import ErrorKind, UserError
from ..progress import Stage, no_progress

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """Files of one npm package."""

    name: str
    version: str
    sha512: str
    """As npm writes it, in base 64."""
    files: tuple[str, ...]
    """In its folder `dist`."""

    @property
    def folder(self) -> Path:
        """Where the files are kept."""
        return cache_folder() / "npm" / f"{self.name.replace('/', '+')}-{self.version}"


ONNXRUNTIME = Package(
    "onnxruntime-web",
    "1.30.0",
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    (
        "ort.wasm.min.mjs",
        "ort-wasm-simd-threaded.mjs",
        "ort-wasm-simd-threaded.wasm",
        "ort.webgpu.min.mjs",
        "ort-wasm-simd-threaded.asyncify.mjs",
        "ort-wasm-simd-threaded.asyncify.wasm",
    ),
)
"""MIT. One half runs on the processor, the other on WebGPU; a browser loads the one that it uses."""

TOKENIZERS = Package(
    "@huggingface/tokenizers",
    "0.2.0",
    "LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
    ("tokenizers.min.mjs",),
)
"""Apache-2.0. For bundles with a `tokenizer.json`."""


def fetch_package(package: Package, stage: Stage = no_progress) -> Path:
    """The folder with the package's files, downloaded unless it is there already.

    Raises:
        UserError: npm is not here, could not download the package, or it is not what it was; nothing is kept then.
    """

    def make(scratch: Path) -> Path:
        stage(f"Fetching {package.name} {package.version}", None)
        staging = scratch / "files"
        staging.mkdir()
        with tarfile.open(_download(package, scratch)) as archive:
            for name in package.files:
                content = archive.extractfile(f"package/dist/{name}")
                assert content is not None  # the checksum says what is inside
                with (staging / name).open("wb") as file:
                    shutil.copyfileobj(content, file)
        return staging

    return kept_folder(package.folder, make)


def _download(package: Package, scratch: Path) -> Path:
    wanted = f"{package.name}@{package.version}"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            ErrorKind.unavailable, f"npm is not here, which downloads {wanted} for the page. Install Node.js with npm."
        )
    done = subprocess.run(
        [npm, "pack", wanted, "--pack-destination", str(scratch), "--silent"],
        cwd=scratch,
        capture_output=True,
        text=True,
        errors="replace",
    )
    _log.debug("%s\n%s", shlex.join(done.args), done.stderr)
    files = list(scratch.glob("*.tgz"))
    if done.returncode or not files:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        reason = said[-1] if said else "it gave no reason"
        raise UserError(ErrorKind.unavailable, f"npm could not download {wanted}: {reason}")
    found = base64.b64encode(hashlib.sha512(files[0].read_bytes()).digest()).decode()
    if found != package.sha512:
        raise UserError(
            ErrorKind.unavailable,
            f"{wanted} is not what this version of xlstm-export was made with: its SHA-512 is {found}, not "
            f"{package.sha512}. Nothing was kept.",
        )
    return files[0]
