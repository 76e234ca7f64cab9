"""This user's folder for what can be made again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/xlstm-export`, or `~/.cache/xlstm-export`; for a user without a home, a temporary folder."""
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "xlstm-export"
    try:
        return Path.home() / ".cache" / "xlstm-export"
    except RuntimeError:  # a user without a home, as in many containers
        return Path(tempfile.gettempdir()) / f"xlstm-export-{os.getuid()}"
