"""The house stays as CONTRIBUTING.md says: small files, one error enumeration, one reading of a manifest."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from support.paths import DEMO, ROOT

from xlstm_export import cli
from xlstm_export.bundle import bundle as bundle_module
from xlstm_export.errors import ErrorKind

MOST_LINES = 450
SOURCES = (".py", ".cc", ".cpp", ".h", ".hpp", ".cu", ".cuh", ".c", ".sh", ".cmake")


def test_no_file_is_longer_than_the_house_allows():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    lengths = {name: len((ROOT / name).read_bytes().splitlines()) for name in listed if name.endswith(SOURCES)}
    assert lengths and {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_kinds_of_errors_are_those_of_the_cpp_library():
    header = (ROOT / "plugins" / "include" / "xlstm" / "xlstm.hpp").read_text()
    (body,) = re.findall(r"enum class ErrorCode \{(.*?)\};", header, re.DOTALL)
    codes = {name: int(number) for name, number in re.findall(r"(\w+) = (\d+)", body)}
    assert codes and codes.items() <= {kind.name: kind.value for kind in ErrorKind}.items()
    assert {kind.name for kind in ErrorKind} - codes.keys() == {"checkpoint"}  # C++ reads none


@pytest.mark.parametrize(
    "command",
    [
        ("bench", "--steps", "2", "--prompt", "3", "--json"),
        ("validate", "--checkpoint", str(DEMO), "--steps", "2"),
        ("generate", "-n", "2"),
        ("inspect", "--json"),
    ],
    ids=lambda command: command[0],
)
def test_command_reads_the_manifest_once(command, demo_bundle, tmp_path, monkeypatch, capsys):
    read, times = bundle_module.read_manifest, []
    monkeypatch.setattr(bundle_module, "read_manifest", lambda path: times.append(path) or read(path))
    name, *options = command
    report = ["--report", str(tmp_path)] if name == "validate" else []
    monkeypatch.setattr(sys, "argv", ["xlstm-export", name, str(demo_bundle), *options, *report])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code and times == [demo_bundle]
