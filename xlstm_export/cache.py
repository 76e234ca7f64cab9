"""This user's folder for what can be made again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/xlstm-export`, or `~/.cache/xlstm-export`; for a user without a home, a temporary folder."""
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "xlstm-export"
    try:
        return Path.home() / ".cache" / "xlstm-export"
    except RuntimeError:  # a user without a home, as in many containers
        return Path(tempfile.gettempdir()) / f"xlstm-export-{os.getuid()}"


def kept_folder(folder: Path, make: Callable[[Path], Path]) -> Path:
    """A folder that is kept for later: there whole, or not at all, whoever else makes it at the same time.

    Args:
        folder: where it is kept.
        make: given a scratch folder beside it; returns what takes its place. Not called where it is there already.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"), tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        if not folder.is_dir():
            os.replace(make(Path(scratch)), folder)
    return folder
