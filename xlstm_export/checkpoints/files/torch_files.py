"""Files of `torch.save`, in zip format or older: the records of their pickle, and where their storages lie.

Storages are neither loaded nor copied here. In a zip archive each is an entry of its own, uncompressed; in the older
format they follow the pickles one after the other, each after its number of elements.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...errors import ErrorKind, UserError
from .pickle_machine import MAX_BYTES, BadPickle, BoundedStream, Persistent, Table, take_apart
from .tensors import FileExtent
from .torch_records import Storage, storage_of

_SAVE = "Save the model with torch.save(model.state_dict(), ...)."
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 1
_ZIP = b"PK\3\4"


@dataclass(frozen=True)
class TorchFile:
    """What `torch.save` was given, as records, and the bytes of its storages by key."""

    content: object
    storages: dict[str, FileExtent]


def read_torch_file(path: Path) -> TorchFile:
    """Take a file of `torch.save` apart.

    Raises:
        UserError: it is of another kind, truncated, damaged or beyond the limits of `pickle_machine`.
    """
    with path.open("rb") as file:
        start = file.read(len(_ZIP))
    try:
        return _read_zip(path) if start == _ZIP else _read_old(path)
    except BadPickle as error:
        raise _damaged(path, str(error)) from None
    except RecursionError:
        raise _damaged(path, "it is nested too deeply") from None


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        ErrorKind.checkpoint,
        f"{path} cannot be read as a file of torch.save ({why}). It is truncated or damaged; copy or save it again.",
    )


# --- zip ------------------------------------------------------------------------------------------------------------


def _read_zip(path: Path) -> TorchFile:
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if len(entries) != len(archive.infolist()):
                raise _damaged(path, "an entry of the archive is there twice")
            root = _root(path, entries)
            order = archive.read(entries[f"{root}byteorder"]) if f"{root}byteorder" in entries else b"little"
            if order != b"little":
                raise UserError(
                    ErrorKind.checkpoint,
                    f"{path} was saved on a big-endian machine, which is not supported. Save it again on another.",
                )
            content = take_apart(io.BytesIO(archive.read(entries[f"{root}data.pkl"])))
            size = os.fstat(file.fileno()).st_size
            prefix = f"{root}data/"
            storages = {
                name.removeprefix(prefix): FileExtent(path, _data_offset(path, file, entry, size), entry.file_size)
                for name, entry in entries.items()
                if name.startswith(prefix)
            }
            return TorchFile(content, storages)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, struct.error, RuntimeError) as error:
        raise _damaged(path, f"a damaged zip archive: {' '.join(str(error).split())[:200]}") from None


def _root(path: Path, entries: dict[str, zipfile.ZipInfo]) -> str:
    """The folder of the archive, ending in a slash."""
    if any(name.endswith("/constants.pkl") for name in entries):
        raise UserError(ErrorKind.checkpoint, f"{path} is a TorchScript archive. {_SAVE}")
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise UserError(ErrorKind.checkpoint, f"{path} is a zip archive, but not one of torch.save.")
    for name, entry in entries.items():
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _ENCRYPTED:
            raise UserError(
                ErrorKind.checkpoint,
                f"{path} holds {name} compressed or encrypted: it was packed again by another program, and tensors are "
                "read where they lie. Give the file that torch.save wrote.",
            )
    if entries[f"{roots[0]}data.pkl"].file_size > MAX_BYTES:
        raise UserError(
            ErrorKind.checkpoint,
            f"{path} holds objects of more than {MAX_BYTES >> 20} MiB beside its tensors (data.pkl). {_SAVE}",
        )
    return roots[0]


def _data_offset(path: Path, file: BinaryIO, entry: zipfile.ZipInfo, size: int) -> int:
    """Where the bytes of an entry start: its own header has lengths that may differ from those in the directory."""
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_ZIP):
        raise _damaged(path, f"there is no entry where {entry.filename} should be")
    _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if start + entry.file_size > size:
        raise _damaged(path, f"{entry.filename} goes beyond the end of the file")
    return start


# --- the format before ----------------------------------------------------------------------------------------------


def _read_old(path: Path) -> TorchFile:
    with path.open("rb") as file:
        if file.read(1) != pickle.PROTO:
            raise UserError(
                ErrorKind.checkpoint,
                f"{path} is no file of torch.save (neither a zip archive nor a pickle). It is of another format, or "
                "damaged: copy or save it again.",
            )
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        if take_apart(BoundedStream(file, size)) != _MAGIC:
            raise UserError(ErrorKind.checkpoint, f"{path} is a pickle, but not a file of torch.save. {_SAVE}")
        protocol, system = (take_apart(BoundedStream(file, size)) for _ in range(2))
        if protocol != _PROTOCOL or not isinstance(system, Table):
            raise _damaged(path, "it is of an unknown version")
        if any(key == "little_endian" and value is False for key, value in system.pairs if isinstance(key, str)):
            raise UserError(
                ErrorKind.checkpoint,
                f"{path} was saved on a big-endian machine, which is not supported. Save it again on another.",
            )
        seen: dict[str, Storage] = {}

        def note(persistent: Persistent) -> None:
            if (storage := storage_of(persistent)) is not None:
                seen.setdefault(storage.key, storage)

        content = take_apart(BoundedStream(file, size), note)
        keys = take_apart(BoundedStream(file, size))
        storages = {}
        for key in keys if isinstance(keys, list) else []:
            if not isinstance(key, str) or key not in seen:
                raise _damaged(path, "it holds a storage that it does not describe")
            length, header = seen[key].nbytes, file.read(8)
            if len(header) < 8 or struct.unpack("<q", header) != (seen[key].numel,):
                raise _damaged(path, f"storage {key} is not where it should be")
            storages[key] = FileExtent(path, file.tell(), length)
            if file.tell() + length > size:
                raise _damaged(path, f"storage {key} goes beyond the end of the file")
            file.seek(length, os.SEEK_CUR)
        return TorchFile(content, storages)
