"""What a bundle or a checkpoint holds: found first, as plain data, then shown as tables or JSON. No weight is read."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .bundle.manifest import FILE_NAME, MODEL_FILE, Manifest, read_manifest
from .errors import ErrorKind, UserError

DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Dimensions:
    """The architecture in a few numbers."""

    embedding_dim: int
    vocab_size: int | None
    """None: a block stack, (B, 1, D) in and out."""
    tied_head: bool
    blocks: tuple[BlockGroup, ...]


@dataclass(frozen=True)
class BlockGroup:
    """Blocks that are alike."""

    kind: str
    indices: tuple[int, ...]
    settings: dict[str, Any]


@dataclass(frozen=True)
class TensorRow:
    """An input or output of the graph."""

    role: str
    """`input`, `output` or `state`."""
    name: str
    dtype: str
    shape: tuple[int | str, ...]
    next_name: str | None = None
    """Of a state: the output that holds its next value."""


@dataclass(frozen=True)
class FunctionInfo:
    """A local function: an operator of ours with its definition in standard operators."""

    name: str
    nodes: int
    calls: int


@dataclass(frozen=True)
class EngineInfo:
    """An engine beside the bundle."""

    name: str
    runtime: str
    targets: tuple[str, ...]
    batch: tuple[int, int, int]
    bytes: int
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
    dimensions: Dimensions
    parameters: int
    weight_bytes: int
    read_bytes: int
    """Of the weights in one step: all but the rows of the embedding that are not looked up."""
    state_bytes: int
    """Of one sequence, in one direction."""
    opset: int
    operators: dict[str, int]
    """Nodes of the graph by operator, most frequent first; ours with their domain."""
    functions: tuple[FunctionInfo, ...]
    tensors: tuple[TensorRow, ...]
    engines: tuple[EngineInfo, ...]
    missing_files: tuple[str, ...]
    kind: str = "bundle"

    @property
    def token_bytes(self) -> int:
        """Bytes moved for one token of one sequence: weights read once, states read and written once."""
        return self.read_bytes + 2 * self.state_bytes


@dataclass(frozen=True)
class ExportPlan:
    """What `xlstm-export onnx --dtype` would make of a checkpoint."""

    dtype: str
    weight_bytes: int
    linkable_bytes: int
    """Of these, bytes that --link-weights would refer to instead of writing."""


@dataclass(frozen=True)
class CheckpointInspection:
    path: str
    family: str
    files: tuple[str, ...]
    dtypes: dict[str, int]
    """Parameters by the dtype that they are stored in."""
    tokenizer: str | None
    notes: tuple[str, ...]
    dimensions: Dimensions
    parameters: int
    parameters_by_part: dict[str, int]
    """Embedding, head, norm, and the blocks by kind."""
    state_bytes: int
    """Of one sequence."""
    plans: tuple[ExportPlan, ...]
    kind: str = "checkpoint"


Inspection = BundleInspection | CheckpointInspection


def inspect_path(path: Path, config: Path | None = None) -> Inspection:
    """Inspect whatever is at `path`; `config` is for checkpoints that need one.

    Raises:
        UserError: neither a bundle nor a checkpoint that can be read.
    """
    if not path.exists():
        raise UserError(ErrorKind.argument, f"nothing at {path}. Give a bundle's folder or a checkpoint.")
    if path.is_dir() and (path / FILE_NAME).is_file():
        return inspect_bundle(path)
    return inspect_checkpoint(path, config)


def inspect_bundle(bundle: Path) -> BundleInspection:
    """Read manifest and graph of a bundle, without the weights.

    Raises:
        UserError: no bundle, or a damaged one.
    """
    import onnx
    from google.protobuf.message import DecodeError

    from .bundle.engine_record import list_engines

    manifest = read_manifest(bundle)
    missing = [name for name in (MODEL_FILE, *manifest.weight_files) if not (bundle / name).is_file()]
    if MODEL_FILE in missing:
        raise UserError(
            ErrorKind.bundle, f"{bundle} lacks {MODEL_FILE}: it was not copied whole. Copy or export it again."
        )
    try:
        model = onnx.load(bundle / MODEL_FILE, load_external_data=False)
    except DecodeError:
        raise UserError(
            ErrorKind.bundle, f"{bundle / MODEL_FILE} is not an ONNX file, or is damaged. Export the bundle again."
        ) from None
    graph = model.graph
    operators = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in graph.node)
    functions = tuple(
        FunctionInfo(f"{f.domain}::{f.name}", len(f.node), operators[f"{f.domain}::{f.name}"]) for f in model.functions
    )
    weights = [t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    looked_up = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    read_whole = {name for node in graph.node if node.op_type != "Gather" for name in node.input}
    sizes = {t.name: math.prod(t.dims) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in weights}
    engines = tuple(
        EngineInfo(engine.name, record.runtime, record.targets, record.batch, record.engine_bytes, record.fits(bundle))
        for engine, record in list_engines(bundle)
    )
    return BundleInspection(
        path=str(bundle),
        family=manifest.family,
        dtype=manifest.dtype,
        mode=manifest.mode,
        batch=manifest.batch,
        tokenizer=manifest.tokenizer,
        source=manifest.source.path,
        producer=manifest.producer,
        dimensions=_dimensions(manifest.architecture, str(bundle / FILE_NAME)),
        parameters=sum(math.prod(t.dims) for t in weights),
        weight_bytes=sum(sizes.values()),
        read_bytes=sum(size for name, size in sizes.items() if name not in looked_up or name in read_whole),
        state_bytes=manifest.state_bytes(),
        opset=next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0),
        operators=dict(operators.most_common()),
        functions=functions,
        tensors=tuple(_tensor_rows(manifest)),
        engines=engines,
        missing_files=tuple(missing),
    )


def _tensor_rows(manifest: Manifest) -> Iterable[TensorRow]:
    for role, tensor in (("input", manifest.input), ("input", manifest.lengths), ("output", manifest.output)):
        if tensor is not None:
            yield TensorRow(role, tensor.name, tensor.dtype, tensor.shape)
    for state in manifest.states:
        yield TensorRow("state", state.input, state.dtype, state.shape, state.output)


def inspect_checkpoint(path: Path, config: Path | None = None) -> CheckpointInspection:
    """Read a checkpoint's headers and configuration.

    Raises:
        UserError: the checkpoint is not understood.
    """
    import torch

    from .checkpoints import open_checkpoint
    from .modeling.layers import Dtypes
    from .modeling.model import Model

    checkpoint = open_checkpoint(path, config)
    architecture = checkpoint.architecture
    parts: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    for name, tensor in checkpoint.tensors.items():
        count = math.prod(tensor.shape)
        first, *rest = name.split(".")
        parts[f"{architecture.blocks[int(rest[0])].kind} blocks" if first == "blocks" else first] += count
    for tensor in checkpoint.upstream.values():
        stored[str(tensor.dtype).removeprefix("torch.")] += math.prod(tensor.shape)
    plans = []
    for dtype in DTYPES:
        with torch.device("meta"):
            model = Model(architecture, Dtypes(weights=getattr(torch, dtype)))
        parameters = dict(model.named_parameters())
        linkable = sum(
            parameters[name].nbytes
            for name, tensor in checkpoint.tensors.items()
            if tensor.extent is not None and tensor.dtype == parameters[name].dtype
        )
        plans.append(ExportPlan(dtype, sum(p.nbytes for p in parameters.values()), linkable))
    return CheckpointInspection(
        path=str(path),
        family=checkpoint.family,
        files=tuple(file.name for file in checkpoint.files),
        dtypes=dict(stored.most_common()),
        tokenizer=checkpoint.tokenizer.name if checkpoint.tokenizer else None,
        notes=checkpoint.notes,
        dimensions=_dimensions(architecture.to_dict(), str(path)),
        parameters=sum(parts.values()),
        parameters_by_part=dict(parts.most_common()),
        state_bytes=4 * sum(math.prod(state.shape) for state in model.states),
        plans=tuple(plans),
    )


def _dimensions(architecture: dict[str, Any], where: str) -> Dimensions:
    """From an architecture as plain values; equal blocks are one group."""
    try:
        alike: dict[str, list[int]] = {}
        for index, block in enumerate(architecture["blocks"]):
            alike.setdefault(json.dumps(block), []).append(index)
        groups = []
        for text, indices in alike.items():
            settings = json.loads(text)
            groups.append(BlockGroup(settings.pop("kind"), tuple(indices), settings))
        return Dimensions(
            architecture["embedding_dim"], architecture["vocab_size"], architecture["tied_head"], tuple(groups)
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            ErrorKind.bundle, f"{where}: its architecture is incomplete ({error!r}). Export the bundle again."
        ) from None


def to_json(inspection: Inspection) -> str:
    """All fields, and what is derived from them."""
    derived = {"token_bytes": inspection.token_bytes} if isinstance(inspection, BundleInspection) else {}
    return json.dumps({"kind": inspection.kind} | asdict(inspection) | derived, indent=2)


def render(inspection: Inspection) -> RenderableType:
    """Tables for a terminal."""
    parts = _render_bundle if isinstance(inspection, BundleInspection) else _render_checkpoint
    return Group(*parts(inspection))


def _render_bundle(b: BundleInspection) -> Iterable[RenderableType]:
    rows = [
        ("bundle", b.path),
        ("family", f"{b.family}, from {b.source}"),
        *_dimension_rows(b.dimensions),
        ("parameters", f"{b.parameters:,} in {_bytes(b.weight_bytes)} ({b.dtype} projections)"),
        ("state", f"{_bytes(b.state_bytes)} a sequence, float32"),
        (
            "a token moves",
            f"{_bytes(b.token_bytes)}: {_bytes(b.read_bytes)} weights, 2 × {_bytes(b.state_bytes)} states",
        ),
        ("batch", "dynamic" if b.batch is None else str(b.batch)),
        ("tokenizer", b.tokenizer or "none: token ids only"),
        ("made by", ", ".join(f"{name} {version}" for name, version in b.producer.items())),
    ]
    if b.missing_files:
        rows.append(("missing", f"{', '.join(b.missing_files)}: the bundle was not copied whole"))
    yield _facts(rows)
    yield Text()
    operators = ", ".join(f"{name} {count}" for name, count in b.operators.items())
    graph = [(f"opset {b.opset}", f"{sum(b.operators.values())} nodes: {operators}")]
    graph += [(f.name, f"{f.calls} of these, defined by {f.nodes} nodes") for f in b.functions]
    yield _facts(graph)
    yield Text()
    table = Table("", "tensor", "dtype", "shape", box=None, pad_edge=False, header_style="dim")
    for row in _collapsed(b.tensors):
        table.add_row(*row)
    yield table
    if b.engines:
        yield Text()
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("engine", "runs on", "batch", "size", ""):
            table.add_column(title, overflow="fold")
        for e in b.engines:
            low, _, high = e.batch
            stale = "" if e.fits else "built from another export"
            batch = str(low) if low == high else f"{low}-{high}"
            table.add_row(e.name, ", ".join(e.targets), batch, _bytes(e.bytes), Text(stale, "yellow"))
        yield table


def _render_checkpoint(c: CheckpointInspection) -> Iterable[RenderableType]:
    rows = [
        ("checkpoint", c.path),
        ("family", c.family),
        ("files", ", ".join(c.files)),
        *_dimension_rows(c.dimensions),
        ("parameters", f"{c.parameters:,}: " + ", ".join(f"{name} {n:,}" for name, n in c.parameters_by_part.items())),
        ("stored as", ", ".join(c.dtypes)),
        ("state", f"{_bytes(c.state_bytes)} a sequence, float32"),
        ("tokenizer", c.tokenizer or ("bytes" if c.dimensions.vocab_size == 256 else "none: token ids only")),
        *(("note", note) for note in c.notes),
    ]
    yield _facts(rows)
    yield Text()
    table = Table("xlstm-export onnx", "weights", "with --link-weights", box=None, pad_edge=False, header_style="dim")
    for plan in c.plans:
        linked = f"{_bytes(plan.weight_bytes - plan.linkable_bytes)} written" if plan.linkable_bytes else "no gain"
        table.add_row(f"--dtype {plan.dtype}", _bytes(plan.weight_bytes), linked)
    yield table


def _dimension_rows(d: Dimensions) -> Iterable[tuple[str, str]]:
    vocabulary = "block stack without vocabulary" if d.vocab_size is None else f"vocabulary {d.vocab_size:,}"
    tied = ", tied head" if d.tied_head else ""
    yield "dimensions", f"width {d.embedding_dim:,}, {sum(len(g.indices) for g in d.blocks)} blocks, {vocabulary}{tied}"
    for group in d.blocks:
        yield f"  {group.kind}", f"{_ranges(group.indices)}: {_settings(group.settings)}"


def _settings(settings: dict[str, Any]) -> str:
    """`inner_dim 128, num_heads 4`; what is off or absent is left out."""
    words = []
    for name, value in settings.items():
        if isinstance(value, dict):
            words.append(f"{name} ({_settings(value)})")
        elif value is True:
            words.append(name)
        elif value not in (None, False, 0):
            words.append(f"{name} {value}")
    return ", ".join(words)


def _ranges(indices: Iterable[int]) -> str:
    """`0-2, 4`."""
    spans = []
    for _, run in groupby(enumerate(indices), lambda pair: pair[1] - pair[0]):
        numbers = [index for _, index in run]
        spans.append(str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}")
    return ", ".join(spans)


def _collapsed(tensors: Iterable[TensorRow]) -> Iterable[tuple[str, str, str, str]]:
    """States that differ only in their block are one row: `blocks.{0-2, 4}.mlstm.C`."""
    groups: dict[tuple, list[int]] = {}
    for row in tensors:
        shape = "×".join(map(str, row.shape))
        parts = row.name.split(".")
        if row.role == "state" and len(parts) > 2 and parts[1].isdigit():
            key = (row.role, ".".join(parts[2:]), row.dtype, shape)
            groups.setdefault(key, []).append(int(parts[1]))
        else:
            groups[(row.role, row.name, row.dtype, shape)] = []
    for (role, name, dtype, shape), blocks in groups.items():
        if blocks:
            span = _ranges(blocks)
            name = f"blocks.{span if len(blocks) == 1 else '{' + span + '}'}.{name}"
        yield role, name, dtype, shape


def _facts(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def _bytes(count: int) -> str:
    """Decimal units, three digits."""
    value, units = float(count), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    while value >= 1000 and unit != "GB":
        value, unit = value / 1000, next(units)
    return f"{value:,.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"
