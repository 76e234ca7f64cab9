"""Files of `torch.save` with a pickle of one's own, and classes that are gone when a file is read."""

from __future__ import annotations

import io
import struct
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


def pickle_of(content: object, protocol: int = 2) -> bytes:
    """The pickle that `torch.save` makes, with its storages referred to by number."""
    with zipfile.ZipFile(_saved(content, protocol)) as archive:
        return archive.read("archive/data.pkl")


def with_item(content: dict, key: str, value: bytes) -> bytes:
    """The pickle of a dictionary of one item, with one more, whose value is given as opcodes."""
    whole = pickle_of(content)
    assert whole.endswith(b"s."), "SETITEM, STOP"
    return whole[:-1] + b"X" + struct.pack("<I", len(key)) + key.encode() + value + b"s."


def save_with_pickle(path: Path, content: object, edit: Callable[[bytes], bytes], protocol: int = 2) -> Path:
    """A file of `torch.save` whose pickle was changed; its storages are those of `content`."""
    with zipfile.ZipFile(_saved(content, protocol)) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            target.writestr(entry.filename, edit(data) if entry.filename == "archive/data.pkl" else data)
    return path


def _saved(content: object, protocol: int) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(content, buffer, pickle_protocol=protocol)
    return buffer


@contextmanager
def vanishing_module(name: str, *classes: type) -> Iterator[None]:
    """While it lasts, the classes can be pickled as those of a module `name`; nobody can import it afterwards."""
    module = types.ModuleType(name)
    for part in classes:
        part.__module__, part.__qualname__ = name, part.__name__
        setattr(module, part.__name__, part)
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]
