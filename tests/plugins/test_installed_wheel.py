"""The wheel on machines without a clone: with libraries inside and no compiler; and without them, with a C++ compiler
and what `xlstm-export[native]` asks for. scripts/release.py tries the wheels of a release, on every Python.

The packages are those of the test's environment, linked into a new one: only what the wheel requires, and what that
requires in turn. Headers are really fetched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support.native import onnxruntime_operators
from support.paths import ROOT

pytestmark = pytest.mark.slow

KEPT = ("PIP_", "SSL_", "REQUESTS_", "HTTP", "http", "no_proxy", "NO_PROXY")  # how pip reaches the index here
LOADS = """
import onnxruntime, xlstm_export
from xlstm_export.native.locate import ONNXRUNTIME_LIBRARY, find_library
onnxruntime.SessionOptions().register_custom_ops_library(str(find_library(ONNXRUNTIME_LIBRARY)))
print(xlstm_export.__file__)
"""


class Machine:
    """A virtual environment with the wheel in it, and an empty home."""

    def __init__(self, folder: Path):
        self.folder, self.bin = folder, folder / "venv" / "bin"
        environment = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
        self._environment = environment | {"HOME": str(folder / "home"), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        self.packages = folder / "venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"

    def use_cuda_of_pip(self) -> None:
        """Also where the system has a CUDA, which would come first."""
        self._environment["CUDACXX"] = str(self.packages / "nvidia" / "cu13" / "bin" / "nvcc")

    def hide_compilers(self) -> None:
        """Nothing but the virtual environment's own programs is on PATH."""
        self._environment["PATH"] = str(self.bin)

    def run(self, program: str, *arguments: object) -> str:
        """What a program of the virtual environment printed; it must succeed."""
        command = [str(self.bin / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=self._environment, cwd=self.folder)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr


def set_up(folder: Path, *extras: str, **environment: str) -> Machine:
    """The wheel as it is built with these variables set, installed with extras."""
    (folder / "home").mkdir()
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(pip, check=True, env=os.environ | environment)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    made = Machine(folder)
    made.run("pip", "install", "--quiet", "--no-deps", next(folder.glob("*.whl")))
    link_requirements(Distribution.at(next(made.packages.glob("xlstm_export-*.dist-info"))), extras, made.packages)
    return made


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return set_up(tmp_path_factory.mktemp("machine"), "native", "run")


def link_requirements(wheel: Distribution, extras: tuple[str, ...], packages: Path) -> None:
    """Link what `wheel[extras]` needs, directly or not, from this environment into the folder `packages`.

    ONNX Runtime is here as `onnxruntime-gpu`: the same module.
    """
    chosen: dict[str, Distribution] = {}
    waiting = [(wheel, extra) for extra in extras]
    while waiting:
        parent, wanted = waiting.pop()
        for requirement in map(Requirement, parent.requires or ()):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": wanted}):
                continue
            if requirement.name not in chosen:
                name = "onnxruntime-gpu" if requirement.name == "onnxruntime" else requirement.name
                chosen[requirement.name] = distribution(name)
                waiting += [(chosen[requirement.name], extra) for extra in ("", *requirement.extras)]
    owners = Counter(top for one in distributions() for top in {file.parts[0] for file in one.files or ()})
    for one in chosen.values():
        for file in one.files or ():
            if file.parts[0] == "..":
                continue
            # Whole folders, but of those that several packages share, each file.
            part = Path(file) if owners[file.parts[0]] > 1 else Path(file.parts[0])
            link = packages / part
            if not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(one.locate_file(part)).resolve())


def test_wheel_with_libraries_runs_their_kernels_where_there_is_no_compiler(tmp_path, demo_bundle):
    prebuilt = tmp_path / "prebuilt"
    for part in ("lib", "bin"):
        (prebuilt / part).mkdir(parents=True)
    shutil.copy(onnxruntime_operators(), prebuilt / "lib")
    (prebuilt / "bin" / "program").write_text("#!/bin/sh\necho it runs\n")
    (prebuilt / "bin" / "program").chmod(0o755)
    platform = "linux_" + os.uname().machine
    machine = set_up(tmp_path, "run", XLSTM_EXPORT_PREBUILT=str(prebuilt), XLSTM_EXPORT_PLATFORM=platform)
    assert [wheel.name.partition("-py3-none-")[2] for wheel in tmp_path.glob("*.whl")] == [f"{platform}.whl"]
    assert machine.run(Path(machine.run("xlstm-export", "plugins", "prefix").strip(), "bin", "program")) == "it runs\n"
    machine.hide_compilers()
    inside = json.loads(machine.run("python", ROOT / "scripts" / "wheels" / "inside.py", demo_bundle).splitlines()[0])
    assert inside["origin"] == "wheel" and inside["library"].startswith(str(machine.packages))
    assert inside["with_library"].keys() == {
        "MLSTMCell",
        "SLSTMCell",
        "CausalConv",
        "MLSTMProjections",
        "SLSTMProjections",
        "HeadNorm",
        "SkipGatedHeadNorm",
        "AddLayerNorm",
        "GEGLU",
    }
    assert not inside["without"] and not inside["heavy"]
    assert 0 < inside["largest_difference"] < 1e-4 * inside["largest_logit"]


def test_library_for_onnxruntime_is_built_without_cuda(machine):
    printed = machine.run("xlstm-export", "plugins", "build", "--no-cuda")
    assert "libxlstm_onnxruntime.so" in printed
    assert Path(machine.run("python", "-c", LOADS).strip()).is_relative_to(machine.folder)


def test_libraries_with_cuda_are_built_for_one_gpu_and_load(machine):
    machine.use_cuda_of_pip()
    printed = machine.run("xlstm-export", "plugins", "build", "--target", "sm86")
    assert "Left out" not in printed and "libxlstm_tensorrt.so" in printed
    machine.run("python", "-c", LOADS)
    assert "device code    sm_86" in machine.run("xlstm-export", "plugins", "check")
