"""What the commands share of a terminal: output, progress bars, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
import typer.core
from rich.console import Console, RenderableType

from .errors import UserError
from .extras import extras_required
from .progress import Advance, Stage


class Terminal(Console):
    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError  # rich's own answer is exit code 1, which means something here


out = Terminal()
err = Terminal(stderr=True)


class Commands(typer.core.TyperGroup):
    """A `UserError`, or an error of the file system, of any command becomes one message and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with extras_required():
                result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except UserError as error:
            _exit_with(str(error))
        except BrokenPipeError:  # `xlstm-export ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the flush at exit goes
            raise typer.Exit(0) from None
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _exit_with(f"{error.filename or 'What was printed'} cannot be read or written: {error.strerror or error}.")


def _exit_with(message: str) -> NoReturn:
    err.print("[bold red]error:[/bold red] ", end="")
    err.print(message, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(2)


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
