"""Bundle → bundle: every weight read once, the new weight file written once."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..bundle import Bundle
from ..bundle.destination import check_destination, new_folder
from ..bundle.manifest import BYTE_TOKENIZER
from ..bundle.receipt import read_receipt, write_receipt
from ..checksum import FileHashes
from ..errors import ErrorKind, UserError
from ..exporter.write import write_bundle
from ..progress import Advance, Stage, no_progress
from .formats import Format, packed
from .matrices import QUANTISERS, Quantised, by_rows, quantise, row_pieces, scale_dtype
from .options import KEPT, QuantizeOptions
from .plan import Plan, make_plan
from .rewrite import WrittenWeight, define, put_in
from .sites import Site, find_sites, matches, unmatched
from .weight_file import WeightFile


def quantize_bundle(
    bundle: Bundle, out: Path, options: QuantizeOptions, stage: Stage = no_progress, command: str | None = None
) -> Bundle:
    """Write a bundle again with smaller weights.

    Args:
        bundle: in float32, float16 or bfloat16.
        out: the new bundle's folder, made new.
        options: how.
        stage: told of the progress.
        command: what the receipt says that was called.

    Raises:
        UserError: the bundle is quantised already or has nothing to quantise, a kept name is unknown, the text or the
            budget does not do, or `out` is in the way. Nothing is left behind.
    """
    bundle.require_complete()
    if bundle.manifest.quantization is not None:
        raise UserError(
            ErrorKind.argument, f"{bundle.path} is quantised already. Quantise the bundle that it was made from."
        )
    check_destination(out, options.overwrite)
    if out.resolve() == bundle.path.resolve():
        raise UserError(ErrorKind.argument, f"{out} is the bundle itself. Choose another folder with -o.")
    model = ir.load(bundle.model_file)
    sites = _checked_sites(model.graph, bundle, options)
    plan = make_plan(bundle, model.graph, sites, options, stage)
    with new_folder(out) as folder:
        tick = stage("Quantising weights", sum(tensor.nbytes for tensor in _external_weights(model.graph)))
        with WeightFile(folder) as file:
            description = _write_weights(model, sites, plan, options, file, tick)
        tokenizer = bundle.manifest.tokenizer
        if tokenizer not in (None, BYTE_TOKENIZER):
            shutil.copyfile(bundle.path / tokenizer, folder / tokenizer)
        tick = stage("Checking the graph", None)
        manifest = replace(bundle.manifest, weight_files=(file.name,), quantization=description)
        manifest = write_bundle(folder, model, manifest)
        read = [*bundle.files, *([] if options.text is None else [options.text])]
        write_receipt(Bundle(folder, manifest), command, read, FileHashes(), read_receipt(bundle.path))
        tick(1)
    return Bundle(out, manifest)


def _checked_sites(graph: ir.Graph, bundle: Bundle, options: QuantizeOptions) -> list[Site]:
    sites = find_sites(graph, options.block_size)
    if wrong := list(unmatched(sites, [pattern for pattern in options.keep if pattern not in KEPT])):
        raise UserError(
            ErrorKind.argument,
            f"--keep: nothing that could be quantised is called {', '.join(wrong)}. "
            f"There is {', '.join(site.name for site in sites[:4])}, and so on.",
        )
    if all(matches(site.name, options.keep) for site in sites):
        raise UserError(
            ErrorKind.argument,
            f"{bundle.path} has no matrix to quantise in blocks of {options.block_size}: they are kept, or smaller.",
        )
    return sites


def _write_weights(
    model: ir.Model, sites: list[Site], plan: Plan, options: QuantizeOptions, file: WeightFile, progress: Advance
) -> dict[str, Any]:
    """Write every weight, quantised or as it is, and change the graph. Returns what the manifest says of it."""
    by_value = {id(site.value): site for site in sites}
    operators: set[str] = set()
    stored = weights = 0
    parameters = sum(tensor.size for tensor in _external_weights(model.graph))
    others = {}
    for value in list(model.graph.initializers.values()):
        site = by_value.get(id(value))
        format_ = None if site is None else plan.formats[site.name]
        if site is None or format_ is None:
            if isinstance(value.const_value, ir.ExternalTensor):
                progress(file.copy(value))
            if site is not None:
                others[site.name] = "float"
            continue
        quantised = plan.ready.get(site.name) or _quantise(site, format_, options, progress)
        written = _write_site(site, format_, quantised, file)
        operators |= put_in(model.graph, site, written, format_.bits, options.block_size)
        stored, weights = stored + written.nbytes, weights + site.size
        if format_.name != options.weights:
            others[site.name] = format_.name
    define(model, operators)
    return {
        "weights": options.weights,
        "block_size": options.block_size,
        "method": options.method,
        "parameters": parameters,
        "bits_per_weight": round(8 * stored / weights, 4),
        "others": others,
    } | ({} if plan.divergence is None else {"kl_divergence": plan.divergence})


def _quantise(site: Site, format_: Format, options: QuantizeOptions, progress: Advance) -> Quantised:
    width = int(site.dtype.itemsize)
    return quantise(
        site,
        format_,
        options.block_size,
        scale_dtype(site).numpy(),
        QUANTISERS[options.method],
        lambda count: progress(count * width),
    )


def _write_site(site: Site, format_: Format, quantised: Quantised, file: WeightFile) -> WrittenWeight:
    """Write codes and scales."""
    shape, rows = quantised.codes.shape, by_rows(site)
    pairs = (shape[0], shape[1] // 2)  # two codes a byte
    as_bytes = format_.bits == 4 and bool(site.lookups)
    pieces = (packed(piece, format_) for piece in row_pieces(quantised.codes))
    layout = (ir.DataType.UINT8, pairs) if as_bytes and rows else (format_.dtype, shape)
    codes = looked_up = file.add(f"{site.name}.codes", *layout, pieces)
    if as_bytes and not rows:  # the same bytes, which products read as four-bit integers
        looked_up = file.again(f"{site.name}.bytes", ir.DataType.UINT8, pairs, codes)
    dtype = scale_dtype(site)
    narrow = quantised.scales.astype(dtype.numpy())
    scales = file.add(f"{site.name}.scales", dtype, narrow.shape, [narrow])
    return WrittenWeight(codes, looked_up, scales)


def _external_weights(graph: ir.Graph) -> list[ir.ExternalTensor]:
    """Tensors that lie in the weight file."""
    tensors = (value.const_value for value in graph.initializers.values())
    return [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]
