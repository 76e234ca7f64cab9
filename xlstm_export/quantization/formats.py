"""Number formats of weights: codes and scales of blocks of a matrix, and how codes lie in a file.

A matrix is (N, K) here: N outputs of K inputs each, cut along K into blocks of one scale. A weight is code times scale
(symmetric: no zero points).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

_LOW, _HIGH = -8, 7
_TINY_SCALE = 2.0**-24  # the smallest float16


@dataclass(frozen=True)
class Format:
    """How a weight is stored."""

    name: str
    bits: int
    dtype: ir.DataType
    low: float
    high: float
    """The least and the greatest code."""
    round: Callable[[np.ndarray], np.ndarray]
    """To codes: from float32 within `low` and `high` to float32."""
    storage: np.dtype
    """Of one code in memory, before packing."""

    def encode(self, scaled: np.ndarray) -> np.ndarray:
        """The codes nearest to weights that were divided by their scales, as float32; out of place."""
        return self.round(np.clip(scaled, self.low, self.high))


def _to_float8(values: np.ndarray) -> np.ndarray:
    return values.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


INT4 = Format("int4", 4, ir.DataType.INT4, _LOW, _HIGH, np.rint, np.dtype(np.int8))
INT8 = Format("int8", 8, ir.DataType.INT8, -127, 127, np.rint, np.dtype(np.int8))
FLOAT8 = Format("float8", 8, ir.DataType.FLOAT8E4M3FN, -448, 448, _to_float8, np.dtype(ml_dtypes.float8_e4m3fn))
FORMATS = {format_.name: format_ for format_ in (INT4, INT8, FLOAT8)}


def blocked(weights: np.ndarray, block_size: int) -> np.ndarray:
    """(N, K) → (N, blocks, block_size), filled up with zeros."""
    rows, inputs = weights.shape
    if missing := -inputs % block_size:
        weights = np.pad(weights, ((0, 0), (0, missing)))
    return weights.reshape(rows, -1, block_size)


def round_to_nearest(blocks: np.ndarray, format_: Format, scale_dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The scale at which a block's largest value is the greatest code.

    Args:
        blocks: (N, blocks, block_size) float32.
        format_: of the codes.
        scale_dtype: that the scales are stored in; codes are those of the stored scales.

    Returns:
        Codes like `blocks`, and scales (N, blocks), both float32.
    """
    scales = stored(np.abs(blocks).max(-1) / format_.high, scale_dtype)
    return format_.encode(blocks / scales[..., None]), scales


def search_scales(
    blocks: np.ndarray, format_: Format, scale_dtype: np.dtype, importance: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The scale with the least squared error, of those that clip a block's largest value more or less.

    The best of a grid is refined by least squares (of weights w and their codes c: scale = <w, c> / <c, c>). Arguments
    and result as of `round_to_nearest`, whose scale is one of the grid; `importance`, (1, blocks, block_size), weighs
    the squares.
    """
    largest = np.abs(blocks).max(-1) / format_.high
    scales = stored(largest, scale_dtype)
    trials = _Trials(blocks, format_, importance)
    best = trials.error(scales)
    for shrink in _GRIDS[format_.bits]:
        trials.keep_better(stored(largest * np.float32(shrink), scale_dtype), scales, best)
    for _ in range(_REFINEMENTS):
        codes = format_.encode(blocks / scales[..., None])
        weighed = codes if importance is None else codes * importance
        fitted = np.einsum("nbk,nbk->nb", blocks, weighed) / np.maximum(np.einsum("nbk,nbk->nb", codes, weighed), 1e-30)
        trials.keep_better(stored(fitted, scale_dtype), scales, best)
    return format_.encode(blocks / scales[..., None]), scales


# A four-bit code reaches -8 on one side; clipping down to two thirds of a block's largest value may pay.
_GRIDS = {4: tuple(np.linspace(0.66, 1.0, 12, endpoint=False)), 8: (0.94, 0.97, 0.985)}
_REFINEMENTS = 2


class _Trials:
    """The errors of one piece's blocks under different scales, computed in two buffers that stay in the cache."""

    def __init__(self, blocks: np.ndarray, format_: Format, importance: np.ndarray | None):
        self._blocks, self._format = blocks, format_
        self._weight = None if importance is None else np.sqrt(importance)
        self._buffer = np.empty_like(blocks)

    def error(self, scales: np.ndarray) -> np.ndarray:
        """Squared error of each block."""
        buffer = np.divide(self._blocks, scales[..., None], out=self._buffer)
        np.clip(buffer, self._format.low, self._format.high, out=buffer)
        codes = self._format.round(buffer)
        np.multiply(codes, scales[..., None], out=buffer)
        np.subtract(buffer, self._blocks, out=buffer)
        if self._weight is not None:
            np.multiply(buffer, self._weight, out=buffer)
        return np.einsum("nbk,nbk->nb", buffer, buffer)

    def keep_better(self, trial: np.ndarray, scales: np.ndarray, best: np.ndarray) -> None:
        """Put the trial's scales in place of the best so far where their error is less."""
        error = self.error(trial)
        np.copyto(scales, trial, where=error < best)
        np.minimum(best, error, out=best)


def stored(scales: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Scales as they are read back from `dtype`, float32; never zero."""
    return np.maximum(scales, np.float32(_TINY_SCALE)).astype(dtype).astype(np.float32)


def packed(codes: np.ndarray, format_: Format) -> np.ndarray:
    """The bytes of a tensor of codes as ONNX stores it: two four-bit codes a byte, the first in the lower half."""
    flat = codes.reshape(-1).astype(format_.storage)
    if format_.bits == 8:
        return flat.view(np.uint8)
    nibbles = flat.view(np.uint8) & 15
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    return nibbles[0::2] | nibbles[1::2] << 4
