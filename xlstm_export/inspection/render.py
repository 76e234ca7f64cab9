"""An inspection as tables for a terminal, or as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..bundle.receipt import Receipt
from ..errors import printable
from .bundle import BundleInspection, TensorRow
from .dimensions import Dimensions

if TYPE_CHECKING:
    from .checkpoint import CheckpointInspection, ModelList

    Inspection = BundleInspection | CheckpointInspection | ModelList


def to_json(inspection: Inspection) -> str:
    """All fields, and what is derived from them."""
    derived = {"token_bytes": inspection.token_bytes} if isinstance(inspection, BundleInspection) else {}
    return json.dumps({"kind": inspection.kind} | asdict(inspection) | derived, indent=2)


def render(inspection: Inspection) -> RenderableType:
    """Tables for a terminal."""
    if isinstance(inspection, BundleInspection):
        return Group(*_render_bundle(inspection))
    if inspection.kind == "models":
        return Group(*_render_models(inspection))
    return Group(*_render_checkpoint(inspection))


def _render_bundle(b: BundleInspection) -> Iterable[RenderableType]:
    rows = [
        ("bundle", b.path),
        ("family", f"{b.family}, from {b.source}"),
        *(_dimension_rows(b.dimensions) if b.dimensions else _network_rows(b)),
        ("parameters", f"{b.parameters:,} in {_bytes(b.weight_bytes)} ({b.dtype} projections)"),
        *_quantization_rows(b.quantization),
        *_state_rows(b),
        ("batch", "dynamic" if b.batch is None else str(b.batch)),
        *([] if b.is_network else [("tokenizer", b.tokenizer or "none: token ids only")]),
        *(_receipt_rows(b.receipt) if b.receipt else [("made with", _versions(b.producer))]),
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
        for title in ("engine", "runs on", "cells", "batch", "size", ""):
            table.add_column(title, overflow="fold")
        for e in b.engines:
            low, _, high = e.batch
            stale = "" if e.fits else "built from another export"
            batch = str(low) if low == high else f"{low}-{high}"
            cells = "in the plugin" if e.plugins else "as definitions"
            table.add_row(e.name, ", ".join(e.targets), cells, batch, _bytes(e.bytes), Text(stale, "yellow"))
        yield table


_MODES = {
    "step": "one position a pass",
    "prefill": "a stream: any number of positions a pass",
    "both": "a stream: any number of positions a pass",
    "window": "whole sequences, no states",
}


def _network_rows(b: BundleInspection) -> Iterable[tuple[str, str]]:
    yield "mode", f"{b.mode}: {_MODES[b.mode]}"
    by_kind = {kind: [c for c in b.cells if c.kind == kind] for kind in dict.fromkeys(c.kind for c in b.cells)}
    for kind, cells in by_kind.items():
        modules = [cell.name.rpartition("/")[0] or cell.name for cell in cells]
        yield f"  {kind}", f"{len(cells)}: {', '.join(dict.fromkeys(modules))}"


def _quantization_rows(found: dict[str, Any] | None) -> Iterable[tuple[str, str]]:
    if found is None:
        return
    text = (
        f"{found.get('weights')} in blocks of {found.get('block_size')} by {found.get('method')}, "
        f"{found.get('bits_per_weight')} bits a weight with scales"
    )
    formats = Counter(found.get("others", {}).values())
    others = ", ".join(f"{count} in {name}" for name, count in formats.items())
    yield "quantised", f"{text}; other matrices: {others}" if others else text


def _receipt_rows(receipt: Receipt) -> Iterable[tuple[str, str]]:
    """How the bundle was made, and before it the one that it was made from."""
    if receipt.made_from is not None:
        yield from _receipt_rows(receipt.made_from)
    yield "made by", receipt.command or "a call from Python"
    yield "  with", _versions(receipt.versions)
    for entry in receipt.inputs:
        yield "  from", f"{entry.name} ({_bytes(entry.bytes)}, sha256 {entry.sha256[:12]}...)"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _state_rows(b: BundleInspection) -> Iterable[tuple[str, str]]:
    if b.mode == "window":
        return
    halves = "" if b.state_dtype == "float32" else f", memories in {b.state_dtype}"
    yield "state", f"{_bytes(b.state_bytes)} a sequence, float32{halves}"
    moved = f"{_bytes(b.read_bytes)} weights, 2 × {_bytes(b.state_bytes)} states"
    unit = "position" if b.is_network else "patch" if b.dimensions and b.dimensions.patches else "token"
    yield f"a {unit} moves", f"{_bytes(b.token_bytes)}: {moved}"


def _render_models(found: ModelList) -> Iterable[RenderableType]:
    yield _facts([("checkpoint", found.path), ("models", f"{len(found.models)}: say which one is meant")])
    yield Text()
    table = Table("", "family", "dimensions", "parameters", box=None, pad_edge=False, header_style="dim")
    for model in found.models:
        table.add_row(Text(printable(f"--select {model.select}")), model.family, model.outline, f"{model.parameters:,}")
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
        ("tokenizer", c.tokenizer or "none: token ids only"),
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
    if d.patches is not None:
        vocabulary = "forecaster"
    head = ", tied head" if d.tied_head else "" if d.has_head or d.vocab_size is None else ", no head: hidden states"
    yield "dimensions", f"width {d.embedding_dim:,}, {sum(len(g.indices) for g in d.blocks)} blocks, {vocabulary}{head}"
    if d.patches is not None:
        yield "  patches", _settings(d.patches)
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
    """States that differ only in their block are one row: `encoder.blocks.{0-2, 4}.mlstm.C`."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for row in tensors:
        shape = "×".join("?" if extent is None else str(extent) for extent in row.shape)
        before, blocks, after = row.name.partition("blocks.")
        number, _, rest = after.partition(".")
        if row.role == "state" and number.isdigit() and rest:
            groups.setdefault((row.role, before + blocks, rest, row.dtype, shape), []).append(int(number))
        else:
            groups[(row.role, row.name, "", row.dtype, shape)] = []
    for (role, name, rest, dtype, shape), numbers in groups.items():
        if numbers:
            span = _ranges(numbers)
            name = f"{name}{span if len(numbers) == 1 else '{' + span + '}'}.{rest}"
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
