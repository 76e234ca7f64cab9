"""From words of packed integers to a weight."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..files.codes import Codes, StoredMatrix
from ..files.tensors import LazyTensor

SPREAD = (128, 64, 32)
"""Widths of blocks that runtimes have kernels for, of which one takes the place of a whole row."""


def as_weight(shape: tuple[int, int], bits: int, blocks: int, read: Callable[[], StoredMatrix]) -> LazyTensor:
    """A weight (N, K) in float32 that knows the integers it is made of.

    `blocks`: of a row. One alone is cut into several with the same scale, which are the same numbers.
    """
    inputs = shape[1]
    parts = inputs // next((width for width in SPREAD if inputs % width == 0), inputs) if blocks == 1 else 1

    def spread() -> StoredMatrix:
        matrix = read()
        zeros = None if matrix.zeros is None or not matrix.zeros.any() else matrix.zeros.repeat(1, parts)
        return StoredMatrix(matrix.codes, matrix.scales.repeat(1, parts), zeros)

    codes = Codes(bits, inputs // (blocks * parts), spread)
    return LazyTensor(shape, torch.float32, lambda: spread().dequantised(), codes=codes)


def unpacked(words: torch.Tensor, bits: int, axis: int) -> torch.Tensor:
    """Unsigned codes of so many bits out of int32 words along an axis (0 or 1), the lowest bits first, as int16."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    if axis == 0:
        parts = words[:, None, :] >> shifts[None, :, None]
        return (parts & (2**bits - 1)).to(torch.int16).reshape(-1, words.shape[1])
    parts = words[:, :, None] >> shifts
    return (parts & (2**bits - 1)).to(torch.int16).reshape(words.shape[0], -1)
