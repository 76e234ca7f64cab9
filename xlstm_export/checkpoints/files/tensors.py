"""Tensors that are read when they are written, one at a time: a 14 GB checkpoint never passes through memory whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import ErrorKind, UserError
from .codes import Codes
from .finite import is_finite, not_finite_error

CHUNK = 16 << 20
"""Bytes of a tensor in memory at once, where it can be read in parts."""


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
    any operation that changes values or order drops it. Tensors of a checkpoint raise `UserError` on reading
    when a value is NaN or infinite, with the name and the index that the user's file has.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]
    extent: FileExtent | None = None
    read_range: Callable[[int, int], torch.Tensor] | None = None
    """Elements [start, stop) in row-major order, flat: set where a part can be read without the whole."""
    codes: Codes | None = None
    """The integers that a quantised weight is made of, as long as it is the whole or rows of what is stored."""
    reason: str | None = None
    """Why it cannot be read: "sparse", "quantised", ...; None where it can."""

    @staticmethod
    def of(tensor: torch.Tensor) -> LazyTensor:
        """Wrap a tensor that is in memory already, as it is."""
        tensor = tensor.detach()
        return LazyTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    @staticmethod
    def stored(name: str, extent: FileExtent, shape: tuple[int, ...], dtype: torch.dtype) -> LazyTensor:
        """A tensor whose bytes lie in a file; only the bytes asked for are read."""

        def read_range(start: int, stop: int) -> torch.Tensor:
            values = _read_bytes(extent, start * dtype.itemsize, stop * dtype.itemsize).view(dtype)
            if not is_finite(values):
                raise not_finite_error(values, start, shape, name, extent.path)
            return values

        return _ranged(shape, dtype, read_range, extent)

    @staticmethod
    def strided(
        name: str, extent: FileExtent, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype
    ) -> LazyTensor:
        """A tensor whose elements lie in a file in another order, or with gaps: `extent` is what they span."""

        def read() -> torch.Tensor:
            spanned = _read_bytes(extent, 0, extent.length).view(dtype)
            values = spanned.as_strided(shape, strides).contiguous()
            if not is_finite(values.view(-1)):
                raise not_finite_error(values.view(-1), 0, shape, name, extent.path)
            return values

        return LazyTensor(shape, dtype, read)

    @staticmethod
    def stacked(parts: Sequence[LazyTensor]) -> LazyTensor:
        """Tensors of one dtype that differ in their first axis alone, one under the other."""
        first = parts[0]
        if any((part.dtype, part.shape[1:]) != (first.dtype, first.shape[1:]) for part in parts):
            raise ValueError(f"cannot stack {[(part.dtype, part.shape) for part in parts]}")

        shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
        ranges = [part.read_range for part in parts if part.read_range is not None]
        if len(ranges) < len(parts):
            return LazyTensor(shape, first.dtype, lambda: torch.cat([part.read() for part in parts]))

        def pieces(start: int, stop: int) -> Iterator[torch.Tensor]:
            begin = 0
            for part, read_range in zip(parts, ranges, strict=True):
                low, high = max(0, start - begin), min(part.numel, stop - begin)
                if low < high:
                    yield read_range(low, high)
                begin += part.numel

        return _ranged(shape, first.dtype, lambda start, stop: torch.cat([*pieces(start, stop)]), None)

    @staticmethod
    def unreadable(reason: str) -> LazyTensor:
        """A tensor that is named but not here: its shape and dtype mean nothing."""

        def read() -> torch.Tensor:
            raise AssertionError(f"a tensor that is {reason} was not refused")

        return LazyTensor((), torch.float32, read, reason=reason)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    def is_same(self, other: LazyTensor) -> bool:
        """Whether both are the same bytes of a file (or the same object), without reading them."""
        return (
            self is other
            or self.extent is not None
            and (self.extent, self.shape, self.dtype)
            == (
                other.extent,
                other.shape,
                other.dtype,
            )
        )

    def chunks(self, limit: int = CHUNK) -> Iterator[torch.Tensor]:
        """The values in row-major order, as flat contiguous pieces of at most `limit` bytes."""
        step = max(1, limit // self.dtype.itemsize)
        if self.read_range is None:
            yield from self.read().contiguous().view(-1).split(step)
            return
        for start in range(0, self.numel, step):
            yield self.read_range(start, min(start + step, self.numel))

    def check(self) -> None:
        """Read the tensor once, in bounded memory, to see that every value is finite (`UserError` otherwise)."""
        for _ in self.chunks():
            pass

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> LazyTensor:
        """Apply a function on reading. Shape and dtype are found by running it on a meta tensor."""
        meta = function(torch.empty(self.shape, dtype=self.dtype, device="meta"))
        return LazyTensor(tuple(meta.shape), meta.dtype, lambda: function(self.read()))

    def reshape(self, *shape: int) -> LazyTensor:
        """The same bytes under another shape (no -1)."""
        if math.prod(shape) != self.numel:
            raise ValueError(f"cannot reshape {self.shape} to {shape}")
        return LazyTensor(shape, self.dtype, lambda: self.read().reshape(shape), self.extent, self.read_range)

    def rows(self, start: int, stop: int) -> LazyTensor:
        """Rows [start, stop) of the first axis: still one run of bytes."""
        shape, row = (stop - start, *self.shape[1:]), math.prod(self.shape[1:])
        if self.read_range is None:
            codes = None if self.codes is None else self.codes.rows(start, stop)
            return LazyTensor(shape, self.dtype, lambda: self.read()[start:stop], codes=codes)
        extent, read_range = None, self.read_range
        if self.extent is not None:
            size = row * self.dtype.itemsize
            extent = FileExtent(self.extent.path, self.extent.offset + start * size, (stop - start) * size)
        return _ranged(shape, self.dtype, lambda a, b: read_range(start * row + a, start * row + b), extent)


def _ranged(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    read_range: Callable[[int, int], torch.Tensor],
    extent: FileExtent | None,
) -> LazyTensor:
    return LazyTensor(shape, dtype, lambda: read_range(0, math.prod(shape)).reshape(shape), extent, read_range)


def _read_bytes(extent: FileExtent, start: int, stop: int) -> torch.Tensor:
    """Bytes [start, stop) of an extent, as uint8. Plain reads: mapped pages would count as memory in use."""
    buffer = torch.empty(stop - start, dtype=torch.uint8)
    with extent.path.open("rb", buffering=0) as file:
        file.seek(extent.offset + start)
        view, done = buffer.numpy().data, 0
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise UserError(
                    ErrorKind.checkpoint,
                    f"{extent.path} ends before its last tensor does: it is truncated. Fetch it again.",
                )
            done += count
    return buffer
