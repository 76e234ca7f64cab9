"""Matrices that a checkpoint holds as integers: weight = scale (code - zero point), block by block along a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix W (N, K) as it is stored.

    Attributes:
        codes: (N, K) int8, signed: from -2^(bits - 1) to 2^(bits - 1) - 1.
        scales: (N, blocks), in the checkpoint's own dtype.
        zeros: (N, blocks) int8; None: all are zero.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None

    def dequantised(self) -> torch.Tensor:
        """W in float32."""
        rows, inputs = self.codes.shape
        blocks = self.codes.reshape(rows, self.scales.shape[1], -1).float()
        if self.zeros is not None:
            blocks = blocks - self.zeros.float()[..., None]
        return (blocks * self.scales.float()[..., None]).reshape(rows, inputs)


@dataclass(frozen=True)
class Codes:
    """What `LazyTensor.codes` says of a weight that is stored as integers."""

    bits: int
    """4 or 8."""
    block_size: int
    """Inputs that share a scale."""
    read: Callable[[], StoredMatrix]

    def rows(self, start: int, stop: int) -> Codes:
        """Of rows [start, stop)."""

        def read() -> StoredMatrix:
            whole = self.read()
            zeros = None if whole.zeros is None else whole.zeros[start:stop]
            return StoredMatrix(whole.codes[start:stop], whole.scales[start:stop], zeros)

        return replace(self, read=read)
