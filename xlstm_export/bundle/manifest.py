"""`manifest.json`: what a runtime must know of a bundle. FORMAT.md is its description; this is its Python reader.

The same text lies in the ONNX file's metadata.
"""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import ErrorKind, UserError
from .dtypes import DTYPES
from .forecast import ForecastSpec, parse_forecast
from .strict_json import MAX_COUNT, Fields, read_json

FORMAT = "xlstm-bundle"
FORMAT_VERSION = 3
FILE_NAME = "manifest.json"
MODEL_FILE = "model.onnx"
METADATA_KEY = "xlstm.manifest"
LOGITS = "logits"
"""The name of an output that tokens can be drawn from."""
NETWORK = "network"
"""The family of a user's own module."""
BYTE_TOKENIZER = "bytes"
"""What a manifest calls the tokenizer whose tokens are the bytes of the text."""

Dtype = Literal["float32", "float16", "bfloat16"]
FLOATS: tuple[Dtype, ...] = get_args(Dtype)
"""From the finest to the coarsest."""
Mode = Literal["step", "prefill", "both", "window"]
LogitsOf = Literal["last", "all"]
"""Positions of a pass at which outputs are given: each row's last, or all."""
Dimension = int | Literal["batch", "sequence"] | None

_REMEDY = "Export the bundle again."


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output. Shapes start with the batch: a number, or "batch" when it is dynamic.

    One dimension may be "sequence", any number of positions; of an output in mode `window`, None is what the run tells.
    """

    name: str
    dtype: str
    shape: tuple[Dimension, ...]

    def sized(self, batch: int, sequence: int = 1) -> tuple[int, ...]:
        """The shape for so many rows and positions.

        Raises:
            TypeError: a dimension is known after the run only.
        """
        return (batch, *(sequence if d == "sequence" else int(d) for d in self.shape[1:]))  # type: ignore[arg-type]

    @property
    def time_axis(self) -> int | None:
        """The axis of the positions, where there is one."""
        return self.shape.index("sequence") if "sequence" in self.shape else None


@dataclass(frozen=True)
class StateTensor:
    """A recurrent state: bound as `input`, its next value as `output`. Zeros reset it."""

    input: str
    output: str
    dtype: Dtype
    shape: tuple[Dimension, ...]
    in_place: bool = False
    """One cell alone reads it and writes its next value: kernels that read before they write need one buffer for it."""

    @property
    def spec(self) -> TensorSpec:
        """The state as the graph's input."""
        return TensorSpec(self.input, self.dtype, self.shape)

    def sized(self, batch: int) -> tuple[int, ...]:
        """The shape for so many rows."""
        return self.spec.sized(batch)


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
    """`step`: one position a pass. `prefill`, `both`: any number (see `exporter.write`). `window`: whole sequences."""
    batch: int | None
    """None: dynamic."""
    inputs: tuple[TensorSpec, ...]
    lengths: TensorSpec | None
    """How many positions of each row are there; the rest is padding. None in the modes `step` and `window`."""
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateTensor, ...]
    tokenizer: str | None
    """"bytes", the name of a Hugging Face tokenizer file in the bundle, or None: token ids only."""
    vocab_size: int | None
    """Of a language model; None: it is none."""
    architecture: dict[str, Any]
    source: Source
    weight_files: tuple[str, ...]
    """Files in the bundle that hold the weights, for whoever copies it."""
    producer: dict[str, str]
    bos_token_id: int | None = None
    """The token that every text begins with; None: none."""
    eos_token_ids: tuple[int, ...] = ()
    """The tokens that end a text."""
    forecast: ForecastSpec | None = None
    """Of a forecaster: what lies between a series and the graph."""
    quantization: dict[str, Any] | None = None
    """How the weights were made smaller, for people; None: they were not."""
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        ordered = {"format": self.format, "format_version": self.format_version}
        return json.dumps(ordered | asdict(self), indent=2) + "\n"

    def state_bytes(self, batch: int = 1) -> int:
        """Bytes of all states of `batch` sequences, as a session holds them."""
        return sum(DTYPES[state.dtype].itemsize * math.prod(state.sized(batch)) for state in self.states)

    @property
    def state_dtype(self) -> Dtype:
        """The coarsest that a state is stored in."""
        return max((state.dtype for state in self.states), key=FLOATS.index, default="float32")

    @property
    def coarsest_dtype(self) -> Dtype:
        """Of projections and states."""
        return max(self.dtype, self.state_dtype, key=FLOATS.index)

    @property
    def is_single(self) -> bool:
        """Whether it is fed one tensor of positions, and gives one of vectors: the shape of a language model or stack.

        Tokens (batch, positions) or vectors (batch, positions, width) in; (batch, positions, width) out.
        """
        positions = 1 if self.mode == "step" else "sequence"
        shapes = [tensor.shape for tensor in (*self.inputs, *self.outputs)]
        return (
            self.mode != "window"
            and len(shapes) == 2
            and len(shapes[0]) == (3 if self.inputs[0].dtype == "float32" else 2)
            and shapes[0][1] == positions
            and len(shapes[1]) == 3
            and shapes[1][1] in (1, positions)
        )

    @property
    def input(self) -> TensorSpec:
        """The one input of a model that `is_single`."""
        (only,) = self.inputs
        return only

    @property
    def output(self) -> TensorSpec:
        """The one output of a model that `is_single`."""
        (only,) = self.outputs
        return only

    @property
    def input_width(self) -> int:
        """Values of the input's row at one position: 1 token, or the width of the vectors."""
        return math.prod(self.input.sized(1))

    @property
    def output_width(self) -> int:
        """Values of the output's row at one position."""
        return math.prod(self.output.sized(1))

    @property
    def gives_logits(self) -> bool:
        """Whether tokens can be drawn from the output."""
        return self.vocab_size is not None and self.outputs[0].name == LOGITS


def read_manifest(bundle: Path) -> Manifest:
    """Read and check `bundle/manifest.json`. Called by `Bundle.open`, and by nothing else.

    Raises:
        UserError: not a bundle, not readable, of another version, or with missing or wrong entries.
    """
    path = bundle / FILE_NAME
    if not path.is_file():
        raise UserError(
            ErrorKind.bundle,
            f"{bundle} is not a bundle: no {FILE_NAME} there. Make one with `xlstm-export onnx CKPT -o DIR`.",
        )
    return parse_manifest(read_json(path, _REMEDY), str(path))


def parse_manifest(data: Any, where: str) -> Manifest:
    """Check the parsed JSON and build the manifest; `where` names the file in messages."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(
            ErrorKind.bundle, f'{where} is not a manifest of xlstm-export: no "format": "{FORMAT}". {_REMEDY}'
        )
    version = data.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise UserError(
            ErrorKind.bundle,
            f"{where} has format version {version!r}; this xlstm-export reads version {FORMAT_VERSION}. "
            "Export the bundle again with this version, or use the version that wrote it.",
        )
    entries = Fields(data, where, _REMEDY)
    entries.require(f.name for f in fields(Manifest) if f.default is MISSING)
    mode = entries.choice("mode", ("step", "prefill", "both", "window"))
    batch = None if entries.is_null("batch") else entries.count("batch")
    source = entries.below("source")
    tokenizer = None if entries.is_null("tokenizer") else entries.file_name("tokenizer")
    manifest = Manifest(
        family=entries.text("family"),
        dtype=entries.choice("dtype", FLOATS),
        mode=mode,
        batch=batch,
        inputs=tuple(_tensor(tensor, batch, mode != "step") for tensor in entries.each("inputs")),
        lengths=None if entries.is_null("lengths") else _tensor(entries.below("lengths"), batch, False),
        outputs=tuple(_tensor(t, batch, mode != "step", mode == "window") for t in entries.each("outputs")),
        states=tuple(_state(state, batch) for state in entries.each("states")),
        tokenizer=tokenizer,
        vocab_size=None if entries.is_null("vocab_size") else entries.count("vocab_size"),
        architecture=entries.mapping("architecture"),
        source=Source(source.text("path"), None if source.is_null("sha256") else source.sha256("sha256")),
        weight_files=entries.file_names("weight_files"),
        producer=entries.mapping("producer"),
        bos_token_id=None if entries.is_absent("bos_token_id") else entries.integer("bos_token_id", 0, MAX_COUNT),
        eos_token_ids=() if entries.is_absent("eos_token_ids") else entries.integers("eos_token_ids", 0),
        forecast=None if entries.is_absent("forecast") else parse_forecast(entries.below("forecast")),
        quantization=None if entries.is_absent("quantization") else entries.mapping("quantization"),
    )
    for fault in _contradictions(manifest):
        entries.fail(fault)
    return manifest


def _tensor(entries: Fields, batch: int | None, positions: bool, unknown: bool = False) -> TensorSpec:
    shape = entries.shape("shape", batch, positions, unknown)
    return TensorSpec(entries.text("name"), entries.choice("dtype", DTYPES), shape)


def _state(entries: Fields, batch: int | None) -> StateTensor:
    return StateTensor(
        entries.text("input"),
        entries.text("output"),
        entries.choice("dtype", DTYPES),
        entries.shape("shape", batch, False),
        not entries.is_absent("in_place") and entries.boolean("in_place"),
    )


def _contradictions(m: Manifest) -> list[str]:
    """What FORMAT.md's eight rules find wrong in a manifest whose entries are all well formed."""
    faults = [f"{name} is empty" for name, list_ in (("inputs", m.inputs), ("outputs", m.outputs)) if not list_]
    if faults:
        return faults
    if (m.mode in ("step", "window")) != (m.lengths is None):
        faults.append(f"lengths is {'null' if m.lengths is None else 'there'} in mode {m.mode}")
    if m.mode in ("prefill", "both") and all(tensor.time_axis is None for tensor in m.inputs):
        faults.append(f"no input has positions (sequence), in mode {m.mode}")
    if m.mode == "window" and m.states:
        faults.append("states are there in mode window")
    positions: Dimension = 1 if m.mode == "step" else "sequence"
    faults += _faults_of_language(m, positions) + _faults_of_forecast(m)
    dtypes = ("float32", "int64", "int32")
    faults += [
        f"input {t.name} is {t.dtype}, not one of {', '.join(dtypes)}" for t in m.inputs if t.dtype not in dtypes
    ]
    faults += [f"output {t.name} is {t.dtype}, not float32" for t in m.outputs if t.dtype != "float32"]
    if m.lengths is not None and (m.lengths.dtype != "int32" or len(m.lengths.shape) != 1):
        faults.append(f"lengths is {m.lengths.dtype} {list(m.lengths.shape)}, not int32 with one number a row")
    tokens = [m.bos_token_id, *m.eos_token_ids] if m.bos_token_id is not None else m.eos_token_ids
    faults += [f"token {t} is not in the vocabulary of {m.vocab_size}" for t in tokens if t >= (m.vocab_size or 0)]
    faults += [
        f"state {s.input} is {s.dtype}, not one of {', '.join(FLOATS)}" for s in m.states if s.dtype not in FLOATS
    ]
    inputs = [*(t.name for t in m.inputs), *([m.lengths.name] if m.lengths else []), *(s.input for s in m.states)]
    for names in (inputs, [*(t.name for t in m.outputs), *(s.output for s in m.states)]):
        faults += [f"two tensors are called {name}" for name in names if names.count(name) > 1][:1]
    return faults


def _faults_of_language(m: Manifest, positions: Dimension) -> list[str]:
    """Of a language model's tokens, and of logits."""
    faults = []
    if m.vocab_size is not None:
        if m.mode == "window" or len(m.inputs) != 1 or len(m.outputs) != 1:
            faults.append("vocab_size is there, but not one input and one output of a mode other than window")
        tokens = m.inputs[0]
        if tokens.dtype != "int64" or len(tokens.shape) != 2 or tokens.shape[1] != positions:
            faults.append(f"input is {tokens.dtype} {list(tokens.shape)}, not tokens of {positions} positions")
        shape = m.outputs[0].shape
        if len(shape) != 3 or shape[1] not in (1, positions):
            faults.append(f"output is {list(shape)}, not vectors with 1 position or {positions}")
        elif m.gives_logits and shape[2] != m.vocab_size:
            faults.append(f"output is logits of width {shape[2]}, but vocab_size is {m.vocab_size}")
    return faults


def _faults_of_forecast(m: Manifest) -> list[str]:
    """Of a graph that is not what `forecast` says."""
    if m.forecast is None:
        return []
    if not m.is_single or m.vocab_size is not None or m.input.dtype != "float32":
        return ["forecast is there, but not one float32 input and one output with positions, and no vocabulary"]
    sizes = (("input", m.input_width, m.forecast.input_width), ("output", m.output_width, m.forecast.output_width))
    return [
        f"{name} has the width {width}, but forecast needs {wanted}" for name, width, wanted in sizes if width != wanted
    ]
