"""This user's folder for what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/xlstm-export`, or `~/.cache/xlstm-export`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xlstm-export"
