"""Weights that the checkpoint holds as integers: written as these very integers, with their scales and zero points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

from ..checkpoints.files.tensors import LazyTensor
from ..exporter.weights import attach_weights
from ..progress import Advance
from .formats import FORMATS, Format, packed
from .matrices import row_pieces
from .rewrite import WrittenWeight, define, put_in
from .sites import Site, find_sites
from .weight_file import WeightFile

STORED_FILE = "codes.weights"


def attach_stored(
    model: ir.Model, tensors: Mapping[str, LazyTensor], folder: Path, link: bool, progress: Advance = lambda _: None
) -> tuple[str, ...]:
    """As `attach_weights`; but products with a weight that is stored as integers multiply with these.

    Args:
        model: its initializers have no bytes yet. Those of integers are replaced.
    """
    sites = {site.value.name: site for site in find_sites(model.graph, 1) if not site.lookups}
    stored = {name: tensor for name, tensor in tensors.items() if tensor.codes is not None and name in sites}
    files: tuple[str, ...] = ()
    if stored:
        operators = set()
        with WeightFile(folder, STORED_FILE) as file:
            for name, tensor in stored.items():
                operators |= _put(model.graph, sites[name], tensor, file)
                progress(tensor.nbytes)
        define(model, operators)
        files = (STORED_FILE,)
    others = {name: tensor for name, tensor in tensors.items() if name not in stored}
    return (*attach_weights(model.graph, others, folder, link, progress), *files)


def _put(graph: ir.Graph, site: Site, tensor: LazyTensor, file: WeightFile) -> set[str]:
    assert tensor.codes is not None and not site.transposed
    format_, matrix = FORMATS[f"int{tensor.codes.bits}"], tensor.codes.read()

    def add(kind: str, values: torch.Tensor) -> ir.Value:
        return _add_codes(file, f"{site.name}.{kind}", values.numpy().T, format_)

    codes = add("codes", matrix.codes)
    zeros = None if matrix.zeros is None else add("zeros", matrix.zeros)
    scales = _as_numpy(matrix.scales).T
    written = file.add(f"{site.name}.scales", ir.DataType.from_numpy(scales.dtype), scales.shape, [scales])
    return put_in(graph, site, WrittenWeight(codes, codes, written, zeros), format_.bits, tensor.codes.block_size)


def _add_codes(file: WeightFile, name: str, codes: np.ndarray, format_: Format) -> ir.Value:
    return file.add(name, format_.dtype, codes.shape, (packed(piece, format_) for piece in row_pieces(codes)))


def _as_numpy(scales: torch.Tensor) -> np.ndarray:
    if scales.dtype == torch.bfloat16:
        return scales.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return scales.numpy()
