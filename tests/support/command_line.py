"""The command line in this process."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from xlstm_export import cli


def call(capsys, monkeypatch, *arguments: str | Path) -> tuple[int, str, str]:
    """The entry point in this process, which spares the imports: exit code, output, errors."""
    monkeypatch.setattr(sys, "argv", ["xlstm-export", *map(str, arguments)])
    package = logging.getLogger("xlstm_export")
    handlers, level = package.handlers[:], package.level
    try:
        with pytest.raises(SystemExit) as stop:
            cli.main()
    finally:  # `--verbose` ends with the process, which goes on here
        package.handlers[:] = handlers
        package.setLevel(level)
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err
