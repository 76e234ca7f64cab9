"""What the commands share of a terminal: output, progress bars, and what becomes of errors."""

from __future__ import annotations

import logging
import os
import platform
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
import typer.core
from rich.console import Console, RenderableType

from .errors import UserError
from .extras import extras_required
from .progress import Advance, Stage
from .version import __version__

_PACKAGE = logging.getLogger(__package__)


class Terminal(Console):
    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError  # rich's own answer is exit code 1, which means something here


out = Terminal()
err = Terminal(stderr=True)


class _TerminalHandler(logging.Handler):
    """Records as dim lines on standard error, above the progress bars: seconds since the start, module, message."""

    def emit(self, record: logging.LogRecord) -> None:
        where = record.name.removeprefix(f"{__package__}.")
        line = f"{record.relativeCreated / 1000:7.2f} s  {where}: {record.getMessage()}"
        err.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def show_version(wanted: bool) -> None:
    """`--version`."""
    if wanted:
        sys.stdout.write(f"xlstm-export {__version__}\n")
        raise typer.Exit()


def be_verbose(wanted: bool) -> None:
    """`--verbose`: what the package's loggers say is shown, and errors come with their traceback."""
    if wanted and not is_verbose():
        _PACKAGE.addHandler(_TerminalHandler())
        _PACKAGE.setLevel(logging.DEBUG)
        logging.getLogger(__name__).debug(
            "xlstm-export %s, Python %s, %s", __version__, platform.python_version(), platform.platform()
        )


def is_verbose() -> bool:
    return _PACKAGE.isEnabledFor(logging.DEBUG)


class Commands(typer.core.TyperGroup):
    """A `UserError`, or an error of the file system, of any command becomes one message and exit code 2.

    `--verbose` may stand behind the command too, where one adds it to a line that went wrong.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--verbose" in args:
            args = ["--verbose", *(arg for arg in args if arg != "--verbose")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            with extras_required():
                result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except UserError as error:
            _explain(error)
            _exit_with(str(error))
        except BrokenPipeError:  # `xlstm-export ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the flush at exit goes
            raise typer.Exit(0) from None
        except OSError as error:
            _explain(error)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _exit_with(f"{error.filename or 'What was printed'} cannot be read or written: {error.strerror or error}.")


def _explain(error: BaseException) -> None:
    """Where it comes from, with the errors that it stands for, though a message for people leaves them out."""
    if not is_verbose():
        return
    cause: BaseException | None = error
    while cause is not None:
        cause.__suppress_context__ = cause.__cause__ is not None
        cause = cause.__cause__ or cause.__context__
    err.print("".join(traceback.format_exception(error)), style="dim", markup=False, highlight=False, soft_wrap=True)


def _exit_with(message: str) -> NoReturn:
    err.print("[bold red]error:[/bold red] ", end="")
    err.print(message, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(2)


def command_line() -> str:
    """What was typed, as a shell takes it."""
    return shlex.join(["xlstm-export", *sys.argv[1:]])


def print_result(json: str | None, render: Callable[[], RenderableType]) -> None:
    if json is None:
        out.print(render())
    else:
        sys.stdout.write(json + "\n")


def print_notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        err.print(f"note: {note}", markup=False, highlight=False)


@contextmanager
def progress() -> Iterator[Stage]:
    """Progress bars on standard error, one for each stage; nothing remains of them."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bars:

        def stage(title: str, total: int | None) -> Advance:
            for done in bars.task_ids:
                bars.remove_task(done)
            task = bars.add_task(title, total=total)
            return lambda amount: bars.advance(task, amount)

        yield stage
