"""`receipt.json`: how a bundle was made, so that it can be made again, and told from one that was changed since.

FORMAT.md describes it. Loaders need nothing of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..checksum import FileHashes, sha256
from ..version import installed_versions
from .bundle import Bundle
from .strict_json import Fields, read_json

RECEIPT_FILE = "receipt.json"
FORMAT = "xlstm-receipt"
FORMAT_VERSION = 1
_PACKAGES = "torch onnx onnx-ir onnxscript numpy ml-dtypes safetensors onnxruntime onnxruntime-gpu xlstm".split()
"""Whatever can change what is written."""
_REMEDY = "Nothing but `inspect` and `validate` reads it: delete it, or make the bundle again."


@dataclass(frozen=True)
class FileEntry:
    """A file as it was. `name` is a path as the user gave it, or of a bundle's own file the name in its folder."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Receipt:
    """How a bundle was made. The same command on the same inputs with the same versions gives the same files."""

    command: str | None
    """As a shell or Python takes it; None: a call that does not say what it was given."""
    versions: Mapping[str, str]
    inputs: tuple[FileEntry, ...]
    """What was read: weights, configurations, tokenizers, texts, the source of a network."""
    files: tuple[FileEntry, ...]
    """The bundle's own."""
    made_from: Receipt | None = None
    """Of the bundle that this one was made from, where it has one."""

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION} | asdict(self), indent=1) + "\n"


def write_receipt(
    bundle: Bundle,
    command: str | None,
    inputs: Iterable[Path],
    known: FileHashes,
    made_from: Receipt | None = None,
) -> None:
    """Write the receipt of a bundle whose other files are all there.

    Args:
        inputs: the files that were read, each as the user named it.
        known: hashes of some of them. A file of the bundle that is one of these (a hard link) is not read again.
    """
    versions = installed_versions(("xlstm-export", *_PACKAGES))
    read = tuple(_entry(path, str(path), known) for path in dict.fromkeys(inputs))
    files = tuple(_entry(path, path.name, known) for path in bundle.files)
    receipt = Receipt(command, versions, read, files, made_from)
    (bundle.path / RECEIPT_FILE).write_text(receipt.to_json(), "utf-8")


def read_receipt(bundle: Path) -> Receipt | None:
    """A bundle's receipt; None: it has none.

    Raises:
        UserError: it is damaged, or of another version.
    """
    path = bundle / RECEIPT_FILE
    if not path.is_file():
        return None
    entries = Fields(read_json(path, _REMEDY), str(path), _REMEDY)
    entries.choice("format", (FORMAT,))
    entries.choice("format_version", (FORMAT_VERSION,))
    return _receipt(entries)


def changed_files(bundle: Path, receipt: Receipt) -> tuple[str, ...]:
    """Names of the bundle's files that are not as the receipt has them, or not there. Reads them all."""
    return tuple(entry.name for entry in receipt.files if not _is_as_it_was(bundle / entry.name, entry))


def changed_inputs(receipt: Receipt, paths: Iterable[Path]) -> tuple[str, ...]:
    """Those of these files that have the name of an input, and are not as any input of this name was."""
    changed = []
    for path in paths:
        recorded = [entry for entry in receipt.inputs if Path(entry.name).name == path.name]
        if recorded and not any(_is_as_it_was(path, entry) for entry in recorded):
            changed.append(str(path))
    return tuple(changed)


def _entry(path: Path, name: str, known: FileHashes) -> FileEntry:
    return FileEntry(name, path.stat().st_size, known.find(path) or sha256(path))


def _is_as_it_was(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes and sha256(path) == entry.sha256


def _receipt(entries: Fields) -> Receipt:
    entries.require(field.name for field in fields(Receipt))
    versions = entries.mapping("versions")
    if not all(isinstance(version, str) for version in versions.values()):
        entries.fail("versions holds something else than texts")
    return Receipt(
        None if entries.is_null("command") else entries.text("command"),
        versions,
        tuple(FileEntry(e.text("name"), _size(e), e.sha256("sha256")) for e in entries.each("inputs")),
        tuple(FileEntry(e.file_name("name"), _size(e), e.sha256("sha256")) for e in entries.each("files")),
        None if entries.is_null("made_from") else _receipt(entries.below("made_from")),
    )


def _size(entries: Fields) -> int:
    return entries.integer("bytes", 0, 2**63 - 1)
