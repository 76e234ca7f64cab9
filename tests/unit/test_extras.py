"""What is installed with which extra: `run` runs bundles without what makes them, and what is missing is named."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

import pytest
from packaging.requirements import Requirement
from support.paths import DEMO, ROOT

from xlstm_export.extras import EXTRA_OF
from xlstm_export.version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = {"yaml": "pyyaml"}  # of modules that are not called like their package
ONE_MODULE = {"onnxruntime": "onnxruntime-gpu"}  # the tests have the second
BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
RUNS = """
import numpy as np, xlstm_export
from typer.testing import CliRunner
from xlstm_export.cli import app
for command in (["--help"], ["generate", bundle, "-n", "3"], ["inspect", bundle], ["doctor"]):
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and result.output, (command, result.output, result.exception)
with xlstm_export.open_session(xlstm_export.open_bundle(bundle)) as session:
    before = session.step(np.ones([1, 1], np.int64))
    session.save(states)
    after = session.step(np.ones([1, 1], np.int64))
    session.load(states)
    assert (session.step(np.ones([1, 1], np.int64)) == after).all() and not (before == after).all()
"""


def requirements(*extras: str) -> set[str]:
    """Packages that `xlstm-export[EXTRAS]` asks for, directly or not, as far as they are here."""
    wanted = [*PROJECT["dependencies"], *(r for extra in extras for r in PROJECT["optional-dependencies"][extra])]
    found: set[str] = set()
    while wanted:
        requirement = Requirement(wanted.pop())
        name = ONE_MODULE.get(requirement.name, requirement.name).lower().replace("_", "-")
        marker = requirement.marker
        if name in found or marker is not None and not marker.evaluate({"extra": ""}):
            continue
        found.add(name)
        try:
            wanted += distribution(name).requires or ()
        except PackageNotFoundError:
            assert marker is not None, f"{name} is not installed here"
    return found


def python(blocked: set[str], script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED.format(blocked=blocked) + script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_bundles_run_with_nothing_but_what_the_extra_run_brings(demo_bundle, tmp_path):
    allowed = requirements("run")
    owners = {
        module: {o.lower().replace("_", "-") for o in names} for module, names in packages_distributions().items()
    }
    blocked = {m for m, names in owners.items() if not names & allowed} - {"xlstm_export", "sitecustomize"}
    assert {"torch", "onnx", "onnx_ir", "tokenizers", "matplotlib", "yaml", "sympy"} <= blocked
    done = python(blocked, "bundle, states = sys.argv[1:]" + RUNS, demo_bundle, tmp_path / "states")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("absent", "command", "extra"),
    [
        ("onnxruntime", ["generate", "BUNDLE"], "run"),
        ("torch", ["onnx", str(DEMO), "-o", "OUT"], "export"),
        ("torch", ["validate", "BUNDLE", "--checkpoint", str(DEMO)], "export"),
        ("onnx", ["quantize", "BUNDLE", "-o", "OUT", "--weights", "int8"], "export"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_command_whose_extra_is_missing_names_it(absent, command, extra, demo_bundle, tmp_path):
    places = {"BUNDLE": demo_bundle, "OUT": tmp_path / "out"}
    script = "sys.argv[0] = 'xlstm-export'\nfrom xlstm_export.cli import main\nmain()"
    done = python({absent}, script, *(places.get(word, word) for word in command))
    message = " ".join(done.stderr.split())
    assert done.returncode == 2 and "Traceback" not in message
    assert f"This needs {absent}, which is not installed. Run: pip install 'xlstm-export[{extra}]'" in message
    assert not (tmp_path / "out").exists()


def test_every_extra_that_is_named_brings_the_module():
    for module, extra in EXTRA_OF.items():
        names = [re.split(r"[^\w-]", text)[0] for text in PROJECT["optional-dependencies"][extra]]
        assert PACKAGES.get(module, module.replace("_", "-")) in names, (module, extra)
        assert not any(PACKAGES.get(module, module) == Requirement(text).name for text in PROJECT["dependencies"])


def test_what_makes_bundles_leaves_the_choice_of_onnxruntime_to_run_or_gpu():
    extras = PROJECT["optional-dependencies"]
    brought = {
        extra: "onnxruntime" in " ".join(extras[extra]) for extra in ("run", "gpu", "export", "reference", "native")
    }
    assert brought == {"run": True, "gpu": True, "export": False, "reference": False, "native": False}


def test_native_libraries_have_the_version_of_the_package():
    (version,) = re.findall(r"project\(xlstm VERSION (\S+)", (ROOT / "plugins" / "CMakeLists.txt").read_text())
    assert version == __version__
