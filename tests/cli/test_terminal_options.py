"""What every command has: `--version`, `--verbose`, completion by the shell."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.command_line import call

from xlstm_export import __version__
from xlstm_export.runtime import onnxruntime as runtime


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "xlstm_export.cli", *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)


def test_version_is_the_packages():
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"xlstm-export {__version__}\n")


@pytest.mark.parametrize("shell, says", [("bash", "complete -o default"), ("zsh", "compdef"), ("fish", "complete --")])
def test_completion_is_shown_for_each_shell(shell, says, capsys, monkeypatch):
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    code, text, _ = call(capsys, monkeypatch, "--show-completion")
    assert code == 0 and says in text and "_XLSTM_EXPORT_COMPLETE" in text


@pytest.mark.parametrize(
    "line, position, found",
    [
        ("xlstm-export ge", 1, "generate"),
        ("xlstm-export plugins b", 2, "build"),
        ("xlstm-export onnx --dt", 2, "--dtype"),
    ],
)
def test_shell_completes_commands_and_options(line, position, found):
    result = run(_XLSTM_EXPORT_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(position))
    assert result.stdout.split() == [found]


@pytest.mark.parametrize("before, behind", [(["--verbose"], []), ([], ["--verbose"])], ids=["before", "behind"])
def test_verbose_says_what_was_chosen_where_it_stands_before_a_command_or_behind_it(
    before, behind, demo_bundle, capsys, monkeypatch
):
    command = ["generate", demo_bundle, "-n", "3"]
    quiet = call(capsys, monkeypatch, *command)
    code, text, said = call(capsys, monkeypatch, *before, *command, *behind)
    assert code == 0 and text == quiet[1]
    for what in ("ONNX Runtime", "threads: 1", "libxlstm_onnxruntime.so is not there", "CPUExecutionProvider"):
        assert what in said and what not in quiet[2]


def test_runtime_is_asked_for_its_warnings_only_where_verbose(demo_bundle, capsys, monkeypatch):
    levels = []
    session = runtime.ort.InferenceSession
    monkeypatch.setattr(
        runtime.ort,
        "InferenceSession",
        lambda model, options, **more: levels.append(options.log_severity_level) or session(model, options, **more),
    )
    for options in ((), ("--verbose",)):
        assert call(capsys, monkeypatch, "generate", demo_bundle, "-n", "1", *options)[0] == 0
    assert levels == [3, 2]


def test_verbose_shows_the_error_that_a_message_stands_for(demo_bundle, capsys, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("what ONNX Runtime said")

    monkeypatch.setattr(runtime.ort, "InferenceSession", fail)
    code, _, quiet = call(capsys, monkeypatch, "generate", demo_bundle)
    assert code == 2 and "Traceback" not in quiet
    code, _, said = call(capsys, monkeypatch, "generate", demo_bundle, "--verbose")
    assert code == 2 and said.endswith(quiet)
    assert said.index("RuntimeError: what ONNX Runtime said") < said.index("raise UserError") < said.index("error: ")
