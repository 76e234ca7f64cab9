"""What goes wrong inside a user's own code is said to be there: with its file and line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import ErrorKind, UserError, printable

_OURS = str(Path(__file__).parents[1])
_TORCH = str(Path(torch.__file__).parent)


def is_users(file_name: str) -> bool:
    """Whether a line of a stack is neither torch's nor ours."""
    return not file_name.startswith((_OURS, _TORCH, "<"))


@contextmanager
def users_errors(what: str) -> Iterator[None]:
    """Turn an exception of the user's code, or of torch on its behalf, into one message.

    Raises:
        UserError: in place of the exception; one that is raised inside passes.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        line = line_of(error)
        message = printable(next(iter(str(error).strip().splitlines()), ""))
        where = f" at {line}" if line else ""
        raise UserError(ErrorKind.argument, f"{what}{where}: {type(error).__name__}: {message}") from error


def line_of(error: BaseException) -> str:
    """File, line and text of the innermost frame that is the user's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if is_users(f.filename)]
    if not own:
        return ""
    return f"{Path(own[-1].filename).name}:{own[-1].lineno} ({own[-1].line})"
