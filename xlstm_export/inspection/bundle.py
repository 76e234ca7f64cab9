"""What a bundle holds, as plain data. No weight is read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from ..bundle import Bundle, Engine, Manifest
from ..bundle.manifest import FILE_NAME, NETWORK, Dimension
from ..bundle.receipt import Receipt, read_receipt
from ..operators.names import CELLS, DOMAIN
from .dimensions import Dimensions, dimensions_of


@dataclass(frozen=True)
class TensorRow:
    """An input or output of the graph."""

    role: str
    """`input`, `output` or `state`."""
    name: str
    dtype: str
    shape: tuple[Dimension, ...]
    next_name: str | None = None
    """Of a state: the output that holds its next value."""


@dataclass(frozen=True)
class FunctionInfo:
    """A local function: an operator of ours with its definition in standard operators."""

    name: str
    nodes: int
    calls: int


@dataclass(frozen=True)
class CellInfo:
    """A cell of a network, by the module that it stands in."""

    name: str
    """Its node: `encoder.blocks.2.slstm/SLSTMCell`."""
    kind: str
    """`MLSTMCell` or `SLSTMCell`."""
    states: tuple[str, ...]
    """Of the bundle's, those that it reads."""


@dataclass(frozen=True)
class EngineInfo:
    """An engine beside the bundle."""

    name: str
    runtime: str
    targets: tuple[str, ...]
    batch: tuple[int, int, int]
    bytes: int
    plugins: str | None
    """The plugin library that runs its cells; None: their definitions do."""
    fits: bool
    """Built from this very graph and manifest."""


@dataclass(frozen=True)
class BundleInspection:
    path: str
    family: str
    dtype: str
    mode: str
    batch: int | None
    """None: dynamic."""
    tokenizer: str | None
    source: str
    producer: dict[str, str]
    dimensions: Dimensions | None
    """None: a network of a user's own, which has `cells`."""
    cells: tuple[CellInfo, ...]
    """Of a network; empty where there are `dimensions`."""
    parameters: int
    quantization: dict[str, Any] | None
    """How weights were made smaller, as the manifest has it; None: they were not."""
    weight_bytes: int
    read_bytes: int
    """Of the weights in one step: all but the rows of the embedding that are not looked up."""
    state_bytes: int
    """Of one sequence, in one direction."""
    state_dtype: str
    """The coarsest of the states."""
    opset: int
    operators: dict[str, int]
    """Nodes of the graph by operator, most frequent first; ours with their domain."""
    functions: tuple[FunctionInfo, ...]
    tensors: tuple[TensorRow, ...]
    engines: tuple[EngineInfo, ...]
    missing_files: tuple[str, ...]
    receipt: Receipt | None
    """How it was made; None: nothing says it."""
    kind: str = "bundle"

    @property
    def is_network(self) -> bool:
        return self.dimensions is None

    @property
    def token_bytes(self) -> int:
        """Bytes moved for one position of one sequence: weights read once, states read and written once."""
        return self.read_bytes + 2 * self.state_bytes


def inspect_bundle(bundle: Bundle) -> BundleInspection:
    """Read the graph of a bundle, without the weights.

    Raises:
        UserError: a damaged bundle.
    """
    manifest, graph = bundle.manifest, bundle.graph.graph
    network = manifest.family == NETWORK
    operators = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in graph.node)
    functions = tuple(
        FunctionInfo(f"{f.domain}::{f.name}", len(f.node), operators[f"{f.domain}::{f.name}"])
        for f in bundle.graph.functions
    )
    return BundleInspection(
        path=str(bundle.path),
        family=manifest.family,
        dtype=manifest.dtype,
        mode=manifest.mode,
        batch=manifest.batch,
        tokenizer=manifest.tokenizer,
        source=manifest.source.path,
        producer=manifest.producer,
        dimensions=None if network else dimensions_of(manifest.architecture, str(bundle.path / FILE_NAME)),
        cells=tuple(_cells(bundle)) if network else (),
        parameters=_parameters(bundle),
        quantization=manifest.quantization,
        weight_bytes=sum(bundle.weight_sizes.values()),
        read_bytes=bundle.step_bytes,
        state_bytes=manifest.state_bytes(),
        state_dtype=manifest.state_dtype,
        opset=next((o.version for o in bundle.graph.opset_import if o.domain in ("", "ai.onnx")), 0),
        operators=dict(operators.most_common()),
        functions=functions,
        tensors=tuple(_tensor_rows(manifest)),
        engines=tuple(map(_engine_info, repeat(bundle), bundle.engines())),
        missing_files=bundle.missing_files,
        receipt=read_receipt(bundle.path),
    )


def _parameters(bundle: Bundle) -> int:
    """Weights, which are counted before they are quantised: then there are scales among them."""
    if bundle.manifest.quantization is not None:
        return int(bundle.manifest.quantization.get("parameters", 0))
    return sum(math.prod(t.dims) for t in bundle.graph.graph.initializer if t.name in bundle.weight_sizes)


def _engine_info(bundle: Bundle, engine: Engine) -> EngineInfo:
    record = engine.record
    name, fits = engine.path.name, bundle.fits(record)
    plugins = record.plugins.name if record.plugins else None
    return EngineInfo(name, record.runtime, record.targets, record.batch, record.engine_bytes, plugins, fits)


def _cells(bundle: Bundle) -> Iterable[CellInfo]:
    states = {state.input for state in bundle.manifest.states}
    for node in bundle.graph.graph.node:
        if node.domain == DOMAIN and node.op_type in CELLS:
            yield CellInfo(node.name, node.op_type, tuple(name for name in node.input if name in states))


def _tensor_rows(manifest: Manifest) -> Iterable[TensorRow]:
    inputs = [*manifest.inputs, *([manifest.lengths] if manifest.lengths else [])]
    for role, tensors in (("input", inputs), ("output", manifest.outputs)):
        for tensor in tensors:
            yield TensorRow(role, tensor.name, tensor.dtype, tensor.shape)
    for state in manifest.states:
        yield TensorRow("state", state.input, state.dtype, state.shape, state.output)
