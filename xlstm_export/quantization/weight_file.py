"""The weight file of the new bundle, which is written from its beginning to its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..exporter.weights import WEIGHT_FILE, alignment

_CHUNK = 16 << 20


class WeightFile:
    """Open it in `with`; `add` and `copy` give initializers their bytes."""

    def __init__(self, folder: Path, name: str = WEIGHT_FILE):
        self.name = name
        self._file = (folder / name).open("wb")

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, name: str, dtype: ir.DataType, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> ir.Value:
        """A new initializer of these bytes."""
        size = -(-int(np.prod(shape, dtype=np.int64)) * dtype.bitwidth // 8)
        offset = self._align(size)
        for piece in pieces:
            self._file.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
        assert self._file.tell() == offset + size, f"{name}: {self._file.tell() - offset} bytes written, not {size}"
        return self._external(name, dtype, shape, offset, size)

    def again(self, name: str, dtype: ir.DataType, shape: tuple[int, ...], written: ir.Value) -> ir.Value:
        """A new initializer of the very bytes of one that has been added."""
        tensor = written.const_value
        assert isinstance(tensor, ir.ExternalTensor) and tensor.offset is not None
        return self._external(name, dtype, shape, tensor.offset, tensor.nbytes)

    def copy(self, value: ir.Value) -> int:
        """Give an initializer its own bytes of the old bundle. Returns how many they are."""
        tensor = value.const_value
        assert isinstance(tensor, ir.ExternalTensor) and value.name and value.dtype and value.shape is not None
        moved = self.add(value.name, value.dtype, tuple(value.shape.numpy()), _bytes(tensor))
        value.const_value = moved.const_value
        return tensor.nbytes

    def _align(self, size: int) -> int:
        self._file.write(b"\0" * (-self._file.tell() % alignment(size)))
        return self._file.tell()

    def _external(self, name: str, dtype: ir.DataType, shape: tuple[int, ...], offset: int, size: int) -> ir.Value:
        tensor = ir.ExternalTensor(self.name, offset, size, dtype, shape=ir.Shape(shape), name=name, base_dir="")
        return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape), const_value=tensor)


def _bytes(tensor: ir.ExternalTensor) -> Iterator[np.ndarray]:
    with Path(tensor.path).open("rb") as file:
        file.seek(tensor.offset or 0)
        left = tensor.nbytes
        while left:
            read = file.read(min(left, _CHUNK))
            if not read:
                raise OSError(0, "ends too early", str(tensor.path))
            left -= len(read)
            yield np.frombuffer(read, np.uint8)
