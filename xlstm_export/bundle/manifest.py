"""`manifest.json`: what a runtime must know of a bundle. The same text lies in the ONNX file's metadata.

The format is checked completely on reading: unknown versions, missing keys and wrong types are one clear error.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..errors import ErrorKind, UserError

FORMAT = "xlstm-bundle"
FORMAT_VERSION = 2
FILE_NAME = "manifest.json"
MODEL_FILE = "model.onnx"
METADATA_KEY = "xlstm.manifest"

Dtype = Literal["float32", "float16", "bfloat16"]
Mode = Literal["step", "prefill", "both"]
Dimension = int | Literal["batch", "sequence"]


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output. Shapes start with the batch: a number, or "batch" when it is dynamic.

    "sequence", as the second dimension of input and output, is any number of positions.
    """

    name: str
    dtype: str
    shape: tuple[Dimension, ...]

    def sized(self, batch: int, sequence: int = 1) -> tuple[int, ...]:
        """The shape for so many rows and positions."""
        return _sized(self.shape, batch, sequence)


@dataclass(frozen=True)
class StateTensor:
    """A recurrent state: bound as `input`, its next value as `output`. Zeros reset it."""

    input: str
    output: str
    dtype: str
    shape: tuple[Dimension, ...]

    def sized(self, batch: int, sequence: int = 1) -> tuple[int, ...]:
        """The shape for so many rows; `sequence` changes nothing."""
        return _sized(self.shape, batch, sequence)


def _sized(shape: tuple[Dimension, ...], batch: int, sequence: int) -> tuple[int, ...]:
    return (batch, *(sequence if d == "sequence" else d for d in shape[1:]))


@dataclass(frozen=True)
class Source:
    """Where the weights came from. `sha256` is over the weight files' bytes in order; None for random weights."""

    path: str
    sha256: str | None


@dataclass(frozen=True)
class Manifest:
    """The description of a bundle; field order is the order in the file."""

    family: str
    dtype: Dtype
    mode: Mode
    """`step`: one position a pass. `prefill` and `both`: any number; see `graph.export`."""
    batch: int | None
    """None: dynamic."""
    input: TensorSpec
    lengths: TensorSpec | None
    """How many positions of each row are there; the rest is padding. None in mode `step`."""
    output: TensorSpec
    states: tuple[StateTensor, ...]
    tokenizer: str | None
    """"bytes", the name of a Hugging Face tokenizer file in the bundle, or None: token ids only."""
    vocab_size: int | None
    architecture: dict[str, Any]
    source: Source
    weight_files: tuple[str, ...]
    """Files in the bundle that hold the weights, for whoever copies it."""
    producer: dict[str, str]
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        ordered = {"format": self.format, "format_version": self.format_version}
        return json.dumps(ordered | asdict(self), indent=2) + "\n"

    def state_bytes(self, batch: int = 1) -> int:
        """Bytes of all states of `batch` sequences (float32)."""
        return sum(4 * batch * math.prod(state.shape[1:]) for state in self.states)


def read_manifest(bundle: Path) -> Manifest:
    """Read and check `bundle/manifest.json`.

    Raises:
        UserError: not a bundle, not readable, of another version, or with missing or wrong entries.
    """
    path = bundle / FILE_NAME
    if not bundle.is_dir() or not path.is_file():
        raise UserError(
            ErrorKind.bundle,
            f"{bundle} is not a bundle: no {FILE_NAME} there. Make one with `xlstm-export onnx CKPT -o DIR`.",
        )
    try:
        data = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(ErrorKind.bundle, f"{path} is not valid JSON ({error}). Export the bundle again.") from None
    return parse_manifest(data, str(path))


def parse_manifest(data: Any, where: str) -> Manifest:
    """Check the parsed JSON and build the manifest; `where` names the file in messages."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(ErrorKind.bundle, f'{where} is not a manifest of xlstm-export: no "format": "{FORMAT}".')
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            ErrorKind.bundle,
            f"{where} has format version {version!r}; this xlstm-export reads version {FORMAT_VERSION}. "
            "Export the bundle again with this version, or use the version that wrote it.",
        )
    names = {f.name for f in fields(Manifest)}
    if missing := sorted(names - data.keys()):
        raise UserError(ErrorKind.bundle, f"{where} lacks {', '.join(missing)}. Export the bundle again.")
    check = _Checker(where)
    states = check.entry(data, "states", list)
    return Manifest(
        family=check.entry(data, "family", str),
        dtype=check.choice(data, "dtype", ("float32", "float16", "bfloat16")),
        mode=check.choice(data, "mode", ("step", "prefill", "both")),
        batch=check.entry(data, "batch", int, optional=True),
        input=check.tensor(data, "input", sequence=data["mode"] != "step"),
        lengths=check.tensor(data, "lengths") if check.lengths(data) else None,
        output=check.tensor(data, "output", sequence=data["mode"] != "step"),
        states=tuple(check.state(state, f"states[{index}]") for index, state in enumerate(states)),
        tokenizer=check.entry(data, "tokenizer", str, optional=True),
        vocab_size=check.entry(data, "vocab_size", int, optional=True),
        architecture=check.entry(data, "architecture", dict),
        source=check.source(data),
        weight_files=tuple(check.file_name(name) for name in check.entry(data, "weight_files", list)),
        producer=check.entry(data, "producer", dict),
    )


class _Checker:
    def __init__(self, where: str):
        self.where = where

    def fail(self, what: str) -> None:
        raise UserError(ErrorKind.bundle, f"{self.where}: {what}. Export the bundle again.")

    def entry(self, data: dict, key: str, kind: type, optional: bool = False, at: str = "") -> Any:
        value = data.get(key)
        if value is None and optional:
            return None
        if not isinstance(value, kind) or isinstance(value, bool):
            self.fail(f"{at}{key} is {json.dumps(value)[:60]}, not {kind.__name__}")
        return value

    def choice(self, data: dict, key: str, allowed: tuple[str, ...]) -> Any:
        if data.get(key) not in allowed:
            self.fail(f"{key} is {json.dumps(data.get(key))[:60]}, not one of {', '.join(allowed)}")
        return data[key]

    def lengths(self, data: dict) -> bool:
        """Whether there is the input `lengths`: in every mode but `step`."""
        if (data["mode"] == "step") != (data["lengths"] is None):
            self.fail(f"lengths is {json.dumps(data['lengths'])[:60]} in mode {data['mode']}")
        return data["lengths"] is not None

    def shape(self, data: dict, at: str, sequence: bool = False) -> tuple[Dimension, ...]:
        shape = self.entry(data, "shape", list, at=at)
        fixed = shape[2:] if sequence and shape[1:2] == ["sequence"] else shape[1:]
        good = all(isinstance(d, int) and not isinstance(d, bool) and d > 0 for d in fixed)
        first = bool(shape) and (shape[0] == "batch" or isinstance(shape[0], int) and shape[0] > 0)
        if not (good and first):
            self.fail(f"{at}shape is {json.dumps(shape)[:60]}, not a batch and positive numbers")
        return tuple(shape)

    def tensor(self, data: dict, key: str, sequence: bool = False) -> TensorSpec:
        value, at = self.entry(data, key, dict), f"{key}."
        name, dtype = self.entry(value, "name", str, at=at), self.entry(value, "dtype", str, at=at)
        return TensorSpec(name, dtype, self.shape(value, at, sequence))

    def state(self, value: Any, key: str) -> StateTensor:
        if not isinstance(value, dict):
            self.fail(f"{key} is {json.dumps(value)[:60]}, not dict")
        at = f"{key}."
        names = (self.entry(value, name, str, at=at) for name in ("input", "output", "dtype"))
        return StateTensor(*names, self.shape(value, at))

    def source(self, data: dict) -> Source:
        value = self.entry(data, "source", dict)
        return Source(self.entry(value, "path", str), self.entry(value, "sha256", str, optional=True))

    def file_name(self, value: Any) -> str:
        if not isinstance(value, str) or not value or "/" in value or "\\" in value or value in (".", ".."):
            self.fail(f"weight_files holds {json.dumps(value)[:60]}, not a plain file name")
        return value
