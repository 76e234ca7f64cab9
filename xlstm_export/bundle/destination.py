"""Where a bundle, or another folder of ours, is written: whole or not at all, and over nothing but another such one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ErrorKind, UserError
from .manifest import FILE_NAME


def check_destination(
    out: Path, overwrite: bool, marker: str = FILE_NAME, what: str = "bundle", choose: str = "another folder with -o"
) -> None:
    """Refuse a destination that holds something else than what may be replaced.

    Args:
        marker: the file by which what may be replaced is known.
        what: such a folder is called.
        choose: what to do instead, for messages.
    """
    if not out.exists() or out.is_dir() and not any(out.iterdir()):
        return
    if not (out / marker).is_file():
        raise UserError(ErrorKind.argument, f"{out} exists and is not a {what}: nothing was written. Choose {choose}.")
    if not overwrite:
        raise UserError(ErrorKind.argument, f"{out} already holds a {what}. Choose {choose}, or pass --overwrite.")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place on success and vanishes on failure.

    Raises:
        UserError: it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    except OSError as error:
        raise _not_written(out, error) from None
    try:
        folder.chmod(0o755)
        yield folder
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
            out.rename(old / "old")
            folder.rename(out)
            shutil.rmtree(old)
        else:
            folder.rename(out)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        inside = error.filename is None or Path(error.filename).is_relative_to(out.parent)
        raise (_not_written(out, error) if inside else error) from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _not_written(out: Path, error: OSError) -> UserError:
    return UserError(
        ErrorKind.argument,
        f"{out} cannot be written: {error.strerror}. Nothing was left there. Make room, or choose another folder.",
    )
