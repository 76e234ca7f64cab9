"""What README.md and the pages in docs/ tell a user to type does what they say, in the order in which it stands there.

A page is read in a folder as its reader has it. All pages share that folder: a bundle that one page made is there for
the next, and a command that has run already is not run again.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from support.command_line import call
from support.native import build_runtime
from support.paths import DEMO, ROOT
from xlstm_docs.command_pages import examples, leaves
from xlstm_docs.pages import Block, blocks_of, page_names

from xlstm_export.native.locate import FOLDER_VARIABLE

PAGES = {page: blocks_of(ROOT, page) for page in page_names(ROOT)}
BLOCKS = [block for blocks in PAGES.values() for block in blocks]
WITH_CODE = [page for page, blocks in PAGES.items() if any(b.language in ("bash", "python") for b in blocks)]
SECONDS = 1500
COMMANDS = dict(leaves())


def ours(command: str) -> list[str] | None:
    """The arguments of a call of `xlstm-export`; None for any other command."""
    words = shlex.split(command)
    return words[1:] if words[0] == "xlstm-export" else None


class Desk:
    """The folder of the reader, and what he has done in it.

    Attributes:
        folder: where he types.
        environment: his variables, with what pages have exported.
        done: the commands that have run.
    """

    def __init__(self, folder: Path, programs: Path):
        self.folder, self.done = folder, set[str]()
        for name, command in {"xlstm-export": "-m xlstm_export.cli", "python": ""}.items():
            script = programs / name
            script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {command} "$@"\n')
            script.chmod(0o755)
        self.environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}

    def run(self, command: str, capsys, monkeypatch) -> None:
        """A line of a page. Our own program runs in this process, which spares imports, where no shell is needed."""
        if command in self.done:
            return
        arguments = ours(command)
        if arguments is not None and not re.search(r"[|<>$;&`]", command):
            code, printed, errors = call(capsys, monkeypatch, *arguments)
            assert code == 0, f"{command}\n{printed}\n{errors}"
        else:
            self.environment |= self.shell(f"{command}\nenv -0 > .environment")
        self.done.add(command)

    def shell(self, script: str) -> dict[str, str]:
        command = ["bash", "-euc", script]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        variables = (self.folder / ".environment").read_text().split("\0")
        return dict(variable.split("=", 1) for variable in variables if variable)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A clone's folders, a checkpoint in several forms, texts, and the C++ library as the tutorial builds it."""
    from support.upstream_models import VARIANTS

    folder = tmp_path_factory.mktemp("desk")
    for name in ("models", "plugins", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    text = (DEMO / "heldout.txt").read_text()
    (folder / "heldout.txt").write_text(text[:4000])
    (folder / "training.txt").write_text(text[4000:6000])  # `gptq` and budgets take time for every token
    shutil.copy(DEMO / "ckpt.pt", folder)
    hf = VARIANTS["c-bfloat16"]
    hf.save(hf.build(seed=0), folder / "my-xlstm")
    weights = VARIANTS["a-all-mlstm"]
    saved = weights.save(weights.build(seed=0), folder / "made")
    shutil.copy(saved / "model.safetensors", folder / "weights.safetensors")
    shutil.copy(saved / "config.json", folder / "config.yaml")  # JSON is YAML
    mixed = VARIANTS["a-mixed"]
    model, average = (dict(mixed.build(seed).state_dict()) for seed in (0, 1))
    (folder / "run").mkdir()
    torch.save(model, folder / "run" / "weights.pt")
    torch.save({"model": model, "ema_model": average, "config": mixed.config}, folder / "training.ckpt")
    (folder / "TiRex").mkdir()
    shutil.copy(ROOT / "models" / "forecaster" / "model.ckpt", folder / "TiRex")
    (folder / "build").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(tmp_path_factory.mktemp("libraries")))
        yield Desk(folder, tmp_path_factory.mktemp("programs"))


def available(block: Block, command: str) -> bool:
    """Whether this machine has what the command needs."""
    if " web " in command:
        return shutil.which("npm") is not None
    return "tensorrt-rtx" not in command or importlib.util.find_spec("tensorrt_rtx") is not None


def write_file(block: Block, folder: Path) -> None:
    """A block whose first line is a comment that begins with a file's name is that file."""
    if name := re.match(r"// ([\w.-]+\.\w+)\b", block.text):
        (folder / name[1]).write_text(block.text)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE)
def test_page_does_what_it_says(page, desk, demo_bundle, capsys, monkeypatch):
    if page != "README.md" and not (desk.folder / "bundle").exists():  # the page is read alone
        shutil.copytree(demo_bundle, desk.folder / "bundle")
        desk.done.add("xlstm-export onnx ckpt.pt -o bundle")
    if page == "docs/tutorial.md":
        (desk.folder / "build" / "runtime").symlink_to(build_runtime())
    monkeypatch.chdir(desk.folder)
    for block in PAGES[page]:
        if block.reason is not None:
            continue
        if block.language == "bash":
            for command in block.commands:
                if available(block, command):
                    desk.run(command, capsys, monkeypatch)
        elif block.language == "python":
            command = [sys.executable, "-c", block.text]
            done = subprocess.run(command, cwd=desk.folder, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, f"{page}:{block.line}\n{done.stderr}"
            assert done.stdout.strip() or "print(" not in block.text, f"{page}:{block.line} printed nothing"
        else:
            write_file(block, desk.folder)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_ends_where_it_should(page):
    fences = re.findall(r"^ *```(.*)$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    assert len(fences) % 2 == 0 and all(fences[0::2]) and not any(fences[1::2])
    languages = [language for language in fences[0::2] if language.isalpha()]
    assert len(languages) == len(PAGES[page])


def test_readme_begins_with_two_commands_of_which_ci_runs_the_second():
    first = next(block for block in PAGES["README.md"] if block.language == "bash")
    scripts = [command.split()[0] for command in first.commands]
    assert scripts == ["scripts/demo.sh", "scripts/test.sh"]
    assert all((ROOT / script).stat().st_mode & 0o111 for script in scripts)
    assert scripts[1] in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "bash"], ids=lambda b: f"{b.page}:{b.line}")
def test_commands_have_the_options_that_a_page_gives_them(block):
    checked = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    for command in block.commands:
        if (arguments := ours(command)) is None:
            continue
        parse(arguments)


def parse(arguments: list[str]) -> None:
    """Hold a call against the command line's options without running anything.

    Raises:
        AssertionError, or Typer's own error: no such command, no such option, or an option without its value.
    """
    arguments = [argument for argument in arguments if argument != "--verbose"]
    if arguments[0].startswith("--"):
        assert arguments[0] in ("--version", "--install-completion", "--show-completion")
        return
    words = next((words for words in COMMANDS if list(words) == arguments[: len(words)]), None)
    assert words is not None, f"no such command: {arguments}"
    command = COMMANDS[words]
    context = command.context_class(command, info_name=" ".join(words))
    command.make_parser(context).parse_args(arguments[len(words) :])


def test_an_option_that_does_not_exist_is_found():
    parse(["plugins", "build", "--no-cuda"])
    for wrong in (["generate", "bundle", "--no-such-option"], ["build", "bundle", "--runtime"]):
        with pytest.raises(Exception, match="no-such-option|argument") as error:
            parse(wrong)
        assert type(error.value).__module__.startswith(typer.__name__)
    with pytest.raises(AssertionError, match="no such command"):
        parse(["exprot", "ckpt.pt"])


def test_every_command_is_shown_on_a_page():
    assert COMMANDS.keys() - examples(ROOT).keys() == set()


def is_run(block: Block) -> bool:
    """Here, or by the test that stands in its place."""
    if block.reason is None:
        return True
    other = re.match(r"(tests/\S+\.py) runs it", block.reason)
    return other is not None and block.page in (ROOT / other[1]).read_text("utf-8")


def test_most_commands_run_and_what_does_not_says_why():
    commands = [
        (block, c) for block in BLOCKS if block.language == "bash" for c in block.commands if ours(c) is not None
    ]
    run = [c for block, c in commands if is_run(block)]
    assert len(commands) > 50 and len(run) >= 0.75 * len(commands)
    assert all(len(block.reason.split()) >= 2 for block, _ in commands if block.reason is not None)


@pytest.mark.parametrize("page", PAGES)
def test_page_names_files_that_are_there(page):
    text = (ROOT / page).read_text("utf-8")
    for path in set(re.findall(r"`((?:models|scripts|plugins|xlstm_export|tests)/[\w./-]+\w)`", text)):
        assert (ROOT / path).exists() or list(ROOT.glob(f"{path}*")), path
