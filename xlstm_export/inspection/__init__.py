"""What a bundle or a checkpoint holds: found first, as plain data, then shown as tables or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle import Bundle
from ..bundle.manifest import FILE_NAME
from ..errors import ErrorKind, UserError
from .bundle import BundleInspection, inspect_bundle
from .render import render, to_json

if TYPE_CHECKING:
    from .render import Inspection


def inspect_path(path: Path, config: Path | None = None) -> Inspection:
    """Inspect whatever is at `path`; `config` is for checkpoints that need one.

    Raises:
        UserError: neither a bundle nor a checkpoint that can be read.
    """
    if not path.exists():
        raise UserError(ErrorKind.argument, f"nothing at {path}. Give a bundle's folder or a checkpoint.")
    if path.is_dir() and (path / FILE_NAME).is_file():
        return inspect_bundle(Bundle.open(path))
    from .checkpoint import inspect_checkpoint  # torch takes a second to import

    return inspect_checkpoint(path, config)


__all__ = ["BundleInspection", "inspect_bundle", "inspect_path", "render", "to_json"]
