"""What the documentation site needs besides Sphinx: the commands' pages."""

from __future__ import annotations

from typing import Any

from .command_pages import write_pages


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", lambda app: write_pages(app.srcdir))
    return {"parallel_read_safe": True}
