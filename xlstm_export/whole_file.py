"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .errors import ErrorKind, UserError


def write_whole(path: Path, write: Callable[[Path], object], remedy: str = "") -> Path:
    """Have `write` write a file beside `path`, which then takes its place.

    Args:
        write: given the path to write to; its suffix is that of `path`.
        remedy: what a message ends with.

    Raises:
        UserError: it cannot be written. What was at `path` is there still, and nothing else.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        write(partial)
        os.replace(partial, path)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}. {remedy}".rstrip()
        raise UserError(ErrorKind.argument, message) from None
    finally:
        partial.unlink(missing_ok=True)
    return path
