"""One weight matrix: read in pieces from the bundle, quantised, laid out as the graph wants it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ..progress import Advance
from .formats import Format, blocked, round_to_nearest, search_scales
from .options import Method
from .sites import Site

_PIECE = 1 << 20
"""Weights that one thread reads at a time."""
_CACHED = 1 << 16
"""Weights that are quantised at a time: few enough for a core's cache."""

Quantiser = Callable[[np.ndarray, Format, np.dtype], tuple[np.ndarray, np.ndarray]]
"""Blocks (N, blocks, block_size), format and dtype of scales → codes and scales: `formats.search_scales`, ..."""


QUANTISERS: dict[Method, Quantiser] = {"rtn": round_to_nearest, "search": search_scales, "gptq": search_scales}
"""By method; GPTQ leaves weights that are in no product."""


@dataclass(frozen=True)
class Quantised:
    """A matrix in codes and scales.

    Attributes:
        codes: (N, K) of a weight whose rows are looked up only, else (K, N); in the format's storage dtype.
        scales: (N, blocks), or (blocks, N), float32, as they will be stored.
    """

    codes: np.ndarray
    scales: np.ndarray


def by_rows(site: Site) -> bool:
    """Whether the codes lie as (N, K): of a weight that is in no product."""
    return not site.products


def read_rows(site: Site, start: int, stop: int) -> np.ndarray:
    """Rows of W, (stop - start, K) float32. Of a matrix that lies transposed, every row is read."""
    tensor = site.value.const_value
    if site.transposed or not isinstance(tensor, ir.ExternalTensor):
        assert tensor is not None
        whole = tensor.numpy().astype(np.float32)
        return np.ascontiguousarray((whole.T if site.transposed else whole)[start:stop])
    dtype = site.dtype.numpy()
    count, width = (stop - start) * site.inputs, dtype.itemsize
    offset = (tensor.offset or 0) + start * site.inputs * width
    values = np.fromfile(tensor.path, dtype, count, offset=offset)
    return _widened(values).reshape(stop - start, site.inputs)


def _widened(values: np.ndarray) -> np.ndarray:
    """As float32; bfloat16 by its bits, which is faster than a cast."""
    if values.dtype == ml_dtypes.bfloat16:
        return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def quantise(
    site: Site, format_: Format, block_size: int, scale_dtype: np.dtype, quantiser: Quantiser, progress: Advance
) -> Quantised:
    """Quantise a matrix block by block, a piece at a time on each core."""
    rows, inputs = site.outputs, site.inputs
    blocks = -(-inputs // block_size)
    codes = np.empty((rows, inputs) if by_rows(site) else (inputs, rows), format_.storage)
    scales = np.empty((rows, blocks) if by_rows(site) else (blocks, rows), np.float32)
    step = rows if site.transposed else max(1, _PIECE // inputs)
    inner = max(1, _CACHED // inputs)

    def piece(start: int) -> int:
        stop = min(start + step, rows)
        weights = read_rows(site, start, stop)
        for at in range(0, stop - start, inner):
            part = weights[at : at + inner]
            found, found_scales = quantiser(blocked(part, block_size), format_, scale_dtype)
            found = found.reshape(len(part), -1)[:, :inputs].astype(format_.storage)
            place = slice(start + at, start + at + len(part))
            if by_rows(site):
                codes[place], scales[place] = found, found_scales
            else:
                codes[:, place], scales[:, place] = found.T, found_scales.T
        return stop - start

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for done in threads.map(piece, range(0, rows, step)):
            progress(done * inputs)
    return Quantised(codes, scales)


def laid_out(site: Site, codes: np.ndarray, scales: np.ndarray, format_: Format) -> Quantised:
    """A matrix that was quantised as a whole: codes (N, K) and scales (N, blocks)."""
    codes = codes.astype(format_.storage)
    return Quantised(codes, scales) if by_rows(site) else Quantised(np.ascontiguousarray(codes.T), scales.T)


def approximated(site: Site, format_: Format, block_size: int, method: Method) -> np.ndarray:
    """W as it is read back after a method that knows no text, (N, K) float32."""
    blocks = blocked(read_rows(site, 0, site.outputs), block_size)
    codes, scales = QUANTISERS[method](blocks, format_, scale_dtype(site).numpy())
    return dequantised(site, codes.reshape(site.outputs, -1), scales, block_size)


def dequantised(site: Site, codes: np.ndarray, scales: np.ndarray, block_size: int) -> np.ndarray:
    """W (N, K) of codes (N, K or more) and scales (N, blocks)."""
    return codes[:, : site.inputs] * np.repeat(scales, block_size, 1)[:, : site.inputs]


def scale_dtype(site: Site) -> ir.DataType:
    """Half precision in any case: as codes are those of the rounded scales, finer ones gain nothing."""
    return ir.DataType.BFLOAT16 if site.dtype == ir.DataType.BFLOAT16 else ir.DataType.FLOAT16


def row_pieces(values: np.ndarray) -> Iterator[np.ndarray]:
    """An even number of rows at a time, so that two four-bit codes of one byte stay together."""
    step = max(1, _PIECE // max(1, values[0].size)) * 2
    for start in range(0, len(values), step):
        yield values[start : start + step]
