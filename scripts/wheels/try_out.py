"""Wheels in bare environments: no compiler on PATH, no clone, nothing of this one's packages."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
ONNXRUNTIMES = ("1.19.2", "1.20.1", "1.22.1", "1.25.1")
"""Older than what pip chooses, which is tried too. 1.18 takes the library, and aborts on our graphs also without it."""
MOST_BYTES = {"3.10": 240e6, "3.11": 200e6, "3.12": 200e6, "3.13": 200e6}
"""Of what `xlstm-export[run]` installs. The newest ONNX Runtime for Python 3.10 asks for SymPy."""
_KEPT = ("PIP_", "SSL_", "REQUESTS_", "HTTP", "http", "no_proxy", "NO_PROXY")  # how pip reaches its index
_TOLERANCE = 1e-4  # of the largest logit: kernels and definitions sum in another order
_UNDER_QEMU = "1.20.1"  # 1.32 breaks off in qemu 7.2, in any program
_INSIDE = Path(__file__).with_name("inside.py")


class Environment:
    """A virtual environment of its own, whose programs see nothing else of this machine than its folder."""

    def __init__(self, python: str, folder: Path):
        self.python = python
        self.folder, self.bin = folder, folder / "venv" / "bin"
        subprocess.run([python_program(python), "-m", "venv", "--without-pip", folder / "venv"], check=True)
        (self.packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
        kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
        self._environment = kept | {"HOME": str(folder), "PATH": str(self.bin), "LANG": "C.UTF-8"}

    def run(self, program: object, *arguments: object, fails: bool = False, **environment: str) -> str:
        """What a program of the environment printed; it must succeed, or fail with exit code 2."""
        command = [str(self.bin / str(program)), *map(str, arguments)]
        surroundings = self._environment | environment
        done = subprocess.run(command, capture_output=True, text=True, env=surroundings, cwd=self.folder, timeout=900)
        if done.returncode != (2 if fails else 0):
            sys.exit(f"error: {' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout + (done.stderr if fails else "")

    def install(self, *requirements: object) -> None:
        """With this environment's own pip: there is none inside."""
        pip = [sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--disable-pip-version-check"]
        done = subprocess.run([str(part) for part in (*pip, *requirements)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"error: pip could not install {' '.join(map(str, requirements))}:\n{done.stdout}{done.stderr}")

    def installed_bytes(self) -> int:
        """On the disk, with what Python compiles of it."""
        return sum(file.stat().st_blocks * 512 for file in self.packages.rglob("*") if file.is_file())

    def seconds(self, program: str, *arguments: str) -> float:
        """The fastest of three."""
        times = []
        for _ in range(3):
            started = time.perf_counter()
            self.run(program, *arguments)
            times.append(time.perf_counter() - started)
        return min(times)


def python_program(version: str) -> str:
    """A Python of that version: on PATH, or of pyenv."""
    found = shutil.which(f"python{version}")
    kept = sorted(glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python{version}")))
    if not (found or kept):
        sys.exit(f"error: no Python {version} here.")
    return kept[-1] if kept else str(found)


def check(wheels: Path, bundle: Path, pythons: Iterable[str]) -> None:
    """Install `xlstm-export[run]` for each Python and run `models/kjv`'s bundle; ends the program where one fails."""
    (wheel,) = wheels.glob("xlstm_export-*x86_64.whl")
    with tempfile.TemporaryDirectory() as scratch:
        for python in pythons:
            folder = Path(scratch, python)
            folder.mkdir()
            print(f"Python {python}: {run_bundle(wheel, bundle, Environment(python, folder))}", flush=True)
            shutil.rmtree(folder)
        environment = Environment("3.11", Path(scratch))
        for version in ONNXRUNTIMES:
            environment.install(wheel, f"onnxruntime=={version}", "numpy<2")
            inside = json.loads(environment.run("python", _INSIDE, bundle))
            print(f"Python 3.11: {_kernels(inside)}", flush=True)


def run_bundle(wheel: Path, bundle: Path, environment: Environment) -> str:
    """First without an extra, then with `run`; what was found, in words."""
    environment.install(wheel)
    environment.run("xlstm-export", "inspect", bundle)
    light = environment.installed_bytes()
    refused = environment.run("xlstm-export", "generate", bundle, fails=True)
    _require("pip install 'xlstm-export[run]'" in " ".join(refused.split()), refused)
    environment.install(f"{wheel}[run]")
    size = environment.installed_bytes()
    _require(size < MOST_BYTES[environment.python], f"{size / 1e6:.0f} MB are installed")
    _require(not (environment.packages / "torch").exists(), "torch is installed")
    inside = json.loads(environment.run("python", _INSIDE, bundle))
    _require(inside["origin"] == "wheel" and inside["library"].startswith(str(environment.packages)), inside)
    kernels = _kernels(inside)
    _require(environment.run("xlstm-export", "doctor").count("(wheel)") == 1, "doctor does not show the library")
    prefix = environment.run("xlstm-export", "plugins", "prefix").strip()
    (runtime,) = (environment.packages / "onnxruntime" / "capi").glob("libonnxruntime.so.*")
    options = ("--prompt", "In the beginning ", "--max-new-tokens", "40", "--temperature", "0")
    program, kernels_of = f"{prefix}/bin/xlstm-generate", ("--custom-ops", inside["library"])
    native = environment.run(program, bundle, *options, *kernels_of, XLSTM_ONNXRUNTIME=str(runtime))
    _require(native.strip() == inside["text"].strip(), f"C++ says {native!r}, Python {inside['text']!r}")
    help_s = environment.seconds("xlstm-export", "--help")
    import_s = environment.seconds("python", "-c", "import xlstm_export")
    return (
        f"{size / 1e6:.0f} MB, {light / 1e6:.0f} MB without an extra; {kernels}; C++ and Python write the same text; "
        f"--help in {help_s:.2f} s, import in {import_s:.2f} s"
    )


def emulate(wheels: Path, bundle: Path) -> str:
    """Run a bundle from the wheel for aarch64 in C++ under qemu-user, by kernels and by definitions; in words."""
    (wheel,) = wheels.glob("xlstm_export-*aarch64.whl")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
            scratch,
        ]
        pip += ["--python-version=3.11", "--platform=manylinux_2_28_aarch64", "--platform=manylinux_2_27_aarch64"]
        subprocess.run([*pip, f"onnxruntime=={_UNDER_QEMU}"], check=True)
        for archive in (wheel, *folder.glob("onnxruntime-*.whl")):
            with zipfile.ZipFile(archive) as file:
                file.extractall(folder)
        prebuilt = folder / "xlstm_export" / "native" / "prebuilt"
        (runtime,) = (folder / "onnxruntime" / "capi").glob("libonnxruntime.so.*")
        program = prebuilt / "bin" / "xlstm-generate"
        program.chmod(0o755)  # which pip does, and the archive's reader does not
        command = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", str(program), str(bundle)]
        command += ["--prompt", "In the beginning ", "--max-new-tokens", "20", "--temperature", "0"]
        kernels = ["--custom-ops", f"{prebuilt}/lib/libxlstm_onnxruntime.so"]
        surroundings = os.environ | {"XLSTM_ONNXRUNTIME": str(runtime)}
        texts = []
        for more in (kernels, []):
            done = subprocess.run([*command, *more], env=surroundings, capture_output=True, text=True)
            _require(done.returncode == 0, f"{' '.join([*command, *more])}:\n{done.stdout}{done.stderr}")
            texts.append(done.stdout)
    _require(texts[0] == texts[1] and texts[0].strip(), texts)
    return f"kernels and definitions write the same text on ONNX Runtime {_UNDER_QEMU} for aarch64"


def _kernels(inside: dict[str, Any]) -> str:
    """What `inside.py` found, held against what must be; in words."""
    _require(inside["with_library"] and not inside["without"] and not inside["heavy"], inside)
    _require(inside["largest_difference"] < _TOLERANCE * inside["largest_logit"], inside)
    names = ", ".join(f"{count} {name}" for name, count in inside["with_library"].items())
    return f"ONNX Runtime {inside['onnxruntime']} ran {names} of ours, logits within {inside['largest_difference']:.1e}"


def _require(condition: object, otherwise: object) -> None:
    if not condition:
        sys.exit(f"error: {otherwise}")
