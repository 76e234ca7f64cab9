"""What docs/forecasting.md tells a user to type works, with the demonstration forecaster in place of TiRex."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest
from support.command_line import call
from support.paths import ROOT

PAGE = (ROOT / "docs" / "forecasting.md").read_text("utf-8")
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", PAGE, re.DOTALL)


def commands() -> list[list[str]]:
    lines = "\n".join(text for kind, text in BLOCKS if kind == "bash").replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.slow
def test_page_takes_a_checkpoint_to_a_forecast_in_five_commands(tmp_path, capsys, monkeypatch):
    (tmp_path / "TiRex").mkdir()
    shutil.copy(ROOT / "models" / "forecaster" / "model.ckpt", tmp_path / "TiRex")
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    five = commands()[:5]
    assert [command[0] for command in five] == ["hf", *["xlstm-export"] * 3, "xlstm-forecast"]
    ours = [command for command in commands() if command[:2] != ["xlstm-export", "plugins"]]
    for program, *arguments in ours:
        if program == "xlstm-export":
            code, _, errors = call(capsys, monkeypatch, *arguments)
            assert code == 0, errors
    assert (tmp_path / "forecast.csv").is_file() and (tmp_path / "forecast.png").is_file()
    (python,) = (text for kind, text in BLOCKS if kind == "python")
    exec(compile(python, "docs/forecasting.md", "exec"), {})
    assert "(1, 64, 9)" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:models|scripts|plugins)/[\w./]+)`", PAGE))))
def test_page_names_files_that_are_there(path):
    assert (ROOT / path).exists()
