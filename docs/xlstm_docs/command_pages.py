"""A page for every command, written from the command line itself: usage, arguments, options, exit codes, an example."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer

from xlstm_export.cli import app

from .pages import blocks_of, page_names

FOLDER = Path("docs", "reference", "commands")

Command = Any
"""A command of Typer's own copy of Click, whose classes have no public name."""


def root_command() -> Command:
    return typer.main.get_command(app)


def leaves(command: Command | None = None, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    """Every command that does something, with the words that call it: `("plugins", "build")`."""
    command = command or root_command()
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, child in command.commands.items():
        yield from leaves(child, (*words, name))


def write_pages(root: Path) -> None:
    """Write the pages anew, beneath `FOLDER`."""
    folder = Path(root) / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shown = examples(Path(root))
    for words, command in leaves():
        (folder / f"{'-'.join(words)}.md").write_text(_page(words, command, shown.get(words)), "utf-8")


def examples(root: Path) -> dict[tuple[str, ...], str]:
    """The first call of each command on the pages; the tests run or parse all of them."""
    commands = [
        command
        for page in page_names(root)
        for block in blocks_of(root, page)
        if block.language == "bash"
        for command in block.commands
    ]
    found = {}
    for words, _ in leaves():
        calls = [c for c in commands if re.search(rf"\bxlstm-export {' '.join(words)}\b(?!-)", c)]
        if calls:
            found[words] = calls[0]
    return found


def _page(words: tuple[str, ...], command: Command, example: str | None) -> str:
    name = " ".join(("xlstm-export", *words))
    hints = get_type_hints(inspect.unwrap(command.callback))
    shown = [p for p in command.params if p.name in hints and not p.hidden]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    options = [p for p in shown if p.param_type_name == "option"]
    needed = [f"{o.opts[0]} {_value(o, hints)}" for o in options if o.required]
    usage = " ".join((name, *(_argument(a) for a in arguments), *needed, *(["[OPTIONS]"] if options else [])))
    parts = [f"# {name}", command.help, "## Usage", f"```text\n{usage}\n```"]
    if arguments:
        parts += ["## Arguments", *(_entry(f"`{_argument(a)}`", [a.help]) for a in arguments)]
    if options:
        parts += ["## Options", *(_entry(_names(o, hints), _said(o, hints)) for o in options)]
    parts += ["## Exit codes", _exit_codes(command.help)]
    if example is not None:
        parts += ["## Example", f"```bash\n{example}\n```"]
    return "\n\n".join(parts) + "\n"


def _entry(term: str, said: list[str]) -> str:
    """An entry of a definition list."""
    return f"{term}\n: {' '.join(said)}"


def _argument(argument: Command) -> str:
    return argument.metavar if argument.required else f"[{argument.metavar}]"


def _choices(option: Command, hints: Mapping[str, Any]) -> list[str]:
    """The values of a `Literal`, which may be one of several types."""
    hint = hints[option.name]
    kinds = [hint, *get_args(hint)] if get_origin(hint) is not Literal else [hint]
    return [str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]


def _value(option: Command, hints: Mapping[str, Any]) -> str:
    """What stands behind an option's name; a flag has nothing there."""
    if option.is_flag:
        return ""
    kinds = {hints[option.name], *get_args(hints[option.name])}
    number = "N" if int in kinds else "X" if float in kinds else "TEXT"
    return option.metavar or "|".join(_choices(option, hints)) or number


def _names(option: Command, hints: Mapping[str, Any]) -> str:
    """`-o DIR`, `--output DIR`."""
    value = _value(option, hints)
    return ", ".join(f"`{name} {value}`" if value else f"`{name}`" for name in option.opts)


def _said(option: Command, hints: Mapping[str, Any]) -> list[str]:
    """The help as `--help` has it, and the default; an option that must be given says so."""
    if option.required:
        return [option.help, "Must be given."]
    if option.default in (None, "", ()) or option.is_flag:
        return [option.help]
    default = "a line break" if option.default == "\n" else f"`{option.default}`"
    return [option.help, f"Default: {default}."]


def _exit_codes(help_: str) -> str:
    one = re.search(r"Exit code 1 ([^.]*)\.", help_)
    rows = [f"- 1: {one[1]}"] if one else []
    wrong = "- 2: something that was given is wrong: one message says what, where, and what to do; nothing is written"
    return "\n".join(["- 0: done", *rows, wrong, "- 130: interrupted"])
