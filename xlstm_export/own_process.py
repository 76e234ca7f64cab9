"""Python processes of our own, for what prints, hangs or may crash: builders and probes.

The child imports what this process imports, and nothing from the current folder.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TextIO


def command(function: str, *arguments: str) -> list[str]:
    """A command that calls `function` (`package.module:name`) with `arguments` in `sys.argv[1:]`."""
    module, _, name = function.partition(":")
    start = f"import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from {module} import {name}; {name}()"
    return [sys.executable, "-c", start, json.dumps([path for path in sys.path if path]), *arguments]


def take_stdout() -> TextIO:
    """In the child: standard output for its caller alone. What anybody prints from now on goes to standard error."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # native libraries print to file descriptor 1
    return out
