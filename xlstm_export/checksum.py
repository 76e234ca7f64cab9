"""SHA-256 of files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = 16 << 20


def sha256(path: Path) -> str:
    """Hexadecimal, over the bytes of a file."""
    return hash_files([path]).whole


@dataclass(frozen=True)
class FileHashes:
    """Hexadecimal SHA-256 of some files: `whole` over their bytes one after another, `each` by path."""

    whole: str = hashlib.sha256().hexdigest()
    each: Mapping[Path, str] = field(default_factory=dict)

    def find(self, path: Path) -> str | None:
        """Of a file that is one of these, under whatever name."""
        return next((hash_ for known, hash_ in self.each.items() if known.exists() and path.samefile(known)), None)


def hash_files(paths: Sequence[Path]) -> FileHashes:
    """Read each file once."""
    whole, each = hashlib.sha256(), {}
    for path in paths:
        own = hashlib.sha256() if len(paths) > 1 else whole
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                whole.update(block)
                if own is not whole:
                    own.update(block)
        each[path] = own.hexdigest()
    return FileHashes(whole.hexdigest(), each)
