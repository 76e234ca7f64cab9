"""What the documentation site needs besides Sphinx: the commands' pages, and the C and C++ headers for Breathe."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def _prepare(app: Any, config: Any) -> None:
    from .command_pages import write_pages
    from .cpp_headers import read_headers

    root = Path(app.srcdir)
    write_pages(root)
    config.breathe_projects = {"xlstm": str(read_headers(root, Path(app.doctreedir).parent / "doxygen"))}


def setup(app: Any) -> dict[str, bool]:
    app.connect("config-inited", _prepare, priority=1)
    return {"parallel_read_safe": True}
