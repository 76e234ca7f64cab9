"""`Bundle`: an exported model on disk, opened once and passed on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..checksum import sha256
from ..errors import ErrorKind, UserError
from ..operators.names import LOOKUPS
from .engine_choice import Engine, Wanted, choose_engine, engine_files
from .engine_record import EngineRecord, EngineRuntime, FileHash, read_record
from .manifest import BYTE_TOKENIZER, FILE_NAME, MODEL_FILE, Manifest, read_manifest

_LOOKUPS = ("Gather", *LOOKUPS)


@dataclass(frozen=True)
class Bundle:
    """A folder written by `xlstm-export onnx`. Nothing of it is kept in memory but manifest and graph."""

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: str | Path) -> Bundle:
        """Read and check the manifest.

        Raises:
            UserError: not a bundle, or one that FORMAT.md does not allow.
        """
        path = Path(path)
        return Bundle(path, read_manifest(path))

    @property
    def model_file(self) -> Path:
        return self.path / MODEL_FILE

    @property
    def missing_files(self) -> tuple[str, ...]:
        """Files that belong to the bundle and are not there."""
        return tuple(n for n in (MODEL_FILE, *self.manifest.weight_files) if not (self.path / n).is_file())

    @property
    def files(self) -> tuple[Path, ...]:
        """Its own, as far as they are there: graph, manifest, weights, tokenizer."""
        names = (MODEL_FILE, FILE_NAME, *self.manifest.weight_files, self.manifest.tokenizer or BYTE_TOKENIZER)
        return tuple(path for name in names if (path := self.path / name).is_file())

    def require_complete(self) -> None:
        """See that graph and weights are there.

        Raises:
            UserError: they are not.
        """
        if missing := self.missing_files:
            raise UserError(
                ErrorKind.bundle,
                f"{self.path} lacks {', '.join(missing)}: it was not copied whole. Copy or export it again.",
            )

    @cached_property
    def hashes(self) -> tuple[FileHash, FileHash]:
        """Of the graph and of the manifest. The manifest names the weights' source, so other weights are another."""
        model, manifest = (FileHash(name, sha256(self.path / name)) for name in (MODEL_FILE, FILE_NAME))
        return model, manifest

    @cached_property
    def model_hash(self) -> str:
        """SHA-256 over architecture and weights, equal for all bundles of one checkpoint (FORMAT.md, saved state)."""
        digest = hashlib.sha256(_canonical(self.manifest.architecture).encode() + b"\0")
        digest.update((self.manifest.source.sha256 or "").encode() + b"\0")
        if self.manifest.source.sha256 is None:
            self.require_complete()
            for name in self.manifest.weight_files:
                with (self.path / name).open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
        return digest.hexdigest()

    @cached_property
    def graph(self) -> Any:
        """The graph's `ModelProto` (`graph_file`), without its external weights; to be read, not changed.

        Raises:
            UserError: it is missing or damaged.
        """
        from .graph_file import read_graph  # protobuf, which --help does without

        if MODEL_FILE in self.missing_files:
            self.require_complete()
        return read_graph(self.model_file)

    @cached_property
    def weight_sizes(self) -> dict[str, int]:
        """Bytes of each weight by name. Bytes that two names share (a quantised embedding's) are the first one's."""
        from .graph_file import EXTERNAL

        sizes, seen = {}, set()
        for tensor in self.graph.graph.initializer:
            if tensor.data_location == EXTERNAL:
                where = {entry.key: entry.value for entry in tensor.external_data}
                extent = (where["location"], where.get("offset"))
                sizes[tensor.name] = 0 if extent in seen else int(where["length"])
                seen.add(extent)
        return sizes

    @cached_property
    def step_bytes(self) -> int:
        """Bytes of weights that one step reads: all but the rows of the embedding that are not looked up."""
        nodes = self.graph.graph.node
        looked_up = {name for node in nodes if node.op_type in _LOOKUPS for name in node.input}
        read_whole = {name for node in nodes if node.op_type not in _LOOKUPS for name in node.input}
        return sum(size for name, size in self.weight_sizes.items() if name not in looked_up or name in read_whole)

    def fits(self, record: EngineRecord) -> bool:
        """Whether an engine was built from this very graph and manifest, byte for byte."""
        return self.model_file.is_file() and (record.model, record.manifest) == self.hashes

    def engines(self) -> list[Engine]:
        """Those that have a readable sidecar, newest first."""
        found = []
        for path in engine_files(self.path):
            try:
                found.append(Engine(path, read_record(path)))
            except UserError:
                continue
        return found

    def find_engine(
        self,
        runtime: EngineRuntime,
        batch: int | None = None,
        major_version: int | None = None,
        engine: Path | None = None,
    ) -> Engine:
        """The engine to run the bundle with: `engine`, or else the newest that fits (FORMAT.md).

        Args:
            runtime: `tensorrt` or `tensorrt-rtx`.
            batch: number of sequences; None: not known yet.
            major_version: of the runtime that is here; None: not known.
            engine: the one that the user named.

        Raises:
            UserError: there is none that fits.
        """
        return choose_engine(Wanted(self.path, self.fits, runtime, batch, major_version), engine)


def _canonical(value: Any) -> str:
    """JSON text as FORMAT.md defines it for the model's hash."""
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda item: item[0].encode())
        return "{" + ",".join(f"{json.dumps(key)}:{_canonical(item)}" for key, item in items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_canonical, value)) + "]"
    if isinstance(value, float) and 1e15 <= abs(value) < 1e16:  # where Python does not write an exponent yet
        digits = repr(abs(value)).replace(".", "").rstrip("0")
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{'-' if value < 0 else ''}{digits[0]}{fraction}e+15"
    return json.dumps(value)
