"""What a bundle or a checkpoint holds: found first, as plain data, then shown as tables or JSON."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle import Bundle
from ..bundle.manifest import FILE_NAME
from ..errors import ErrorKind, UserError
from .bundle import BundleInspection, inspect_bundle
from .render import render, to_json

if TYPE_CHECKING:
    from .render import Inspection


def inspect_path(
    path: Path, config: Path | None = None, select: str | None = None, settings: Iterable[str] = ()
) -> Inspection:
    """Inspect whatever is at `path`: a bundle, a checkpoint, or a checkpoint of several models, which are listed.

    Args:
        path: a file or folder.
        config, select, settings: what the user says about a checkpoint (`--config`, `--select`, `--set KEY=VALUE`).

    Raises:
        UserError: neither a bundle nor a checkpoint that can be read.
    """
    if not path.exists():
        raise UserError(ErrorKind.argument, f"nothing at {path}. Give a bundle's folder or a checkpoint.")
    if path.is_dir() and (path / FILE_NAME).is_file():
        return inspect_bundle(Bundle.open(path))
    from ..checkpoints import ReadOptions, parse_overrides  # torch takes a second to import
    from .checkpoint import inspect_checkpoint, list_models

    options = ReadOptions(config, select, parse_overrides(settings))
    return list_models(path, options) or inspect_checkpoint(path, options)


__all__ = ["BundleInspection", "inspect_bundle", "inspect_path", "render", "to_json"]
