"""Tensors that are read when they are written, one at a time: a 14 GB checkpoint never passes through memory whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class FileExtent:
    """Where a tensor's bytes lie as they are: row-major, little endian, contiguous."""

    path: Path
    offset: int
    """Bytes from the start of the file."""
    length: int
    """Bytes."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is known by shape and dtype and read on demand.

    `extent` is set while the tensor's bytes are still those of a file, so that an ONNX file can refer to them;
    any operation that changes values or order drops it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]
    extent: FileExtent | None = None

    @staticmethod
    def of(tensor: torch.Tensor) -> LazyTensor:
        """Wrap a tensor that is in memory already."""
        tensor = tensor.detach()
        return LazyTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> LazyTensor:
        """Apply a function on reading. Shape and dtype are found by running it on a meta tensor."""
        meta = function(torch.empty(self.shape, dtype=self.dtype, device="meta"))
        return LazyTensor(tuple(meta.shape), meta.dtype, lambda: function(self.read()))

    def reshape(self, *shape: int) -> LazyTensor:
        """The same bytes under another shape (no -1)."""
        if math.prod(shape) != math.prod(self.shape):
            raise ValueError(f"cannot reshape {self.shape} to {shape}")
        return LazyTensor(shape, self.dtype, lambda: self.read().reshape(shape), self.extent)

    def rows(self, start: int, stop: int) -> LazyTensor:
        """Rows [start, stop) of the first axis: still one run of bytes."""
        shape = (stop - start, *self.shape[1:])
        extent = None
        if self.extent is not None:
            row = math.prod(self.shape[1:]) * self.dtype.itemsize
            extent = FileExtent(self.extent.path, self.extent.offset + start * row, (stop - start) * row)
        return LazyTensor(shape, self.dtype, lambda: self.read()[start:stop], extent)
