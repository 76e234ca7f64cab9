"""Weights into the bundle: streamed into one file, or referred to where they lie in the checkpoint's own files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
import torch

from ..checkpoints.files.tensors import FileExtent, LazyTensor
from ..errors import ErrorKind, UserError
from ..progress import Advance

WEIGHT_FILE = "model.weights"
_PAGE = 4096  # ONNX external data is memory-mapped where it starts on a page
_SMALL = 1 << 16  # smaller tensors are packed

TORCH_DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
}


def attach_weights(
    graph: ir.Graph, tensors: Mapping[str, LazyTensor], folder: Path, link: bool, progress: Advance = lambda _: None
) -> tuple[str, ...]:
    """Give every initializer that has no bytes yet its bytes in `folder`, one tensor at a time.

    Args:
        graph: its initializers are named as `tensors`.
        tensors: by canonical name, those of joined layers one under the other (`join_linear_layers`).
        folder: the bundle, where the files are written.
        link: refer to tensors whose bytes the checkpoint already holds in the right dtype, through a link to the
            checkpoint's file in `folder`; only the others are written.
        progress: told of the bytes of each tensor.

    Returns:
        The names of the weight files in `folder`.

    Raises:
        UserError: a weight is not finite, or overflows in the bundle's dtype; a file could not be linked.
    """
    pending = {name: value for name, value in graph.initializers.items() if value.const_value is None}
    if unknown := sorted(pending.keys() ^ tensors.keys()):
        raise AssertionError(f"graph and checkpoint disagree on tensors {unknown}")
    linked: dict[Path, str] = {}
    written: list[tuple[ir.Value, LazyTensor]] = []
    for name, value in pending.items():
        tensor = tensors[name]
        _, dtype, shape = _described(value)
        if tuple(shape) != tensor.shape:
            raise AssertionError(f"{name}: graph has {shape}, checkpoint {tensor.shape}")
        if link and tensor.extent is not None and tensor.dtype == TORCH_DTYPES[dtype]:
            for chunk in tensor.chunks():  # reading checks that every value is finite
                progress(chunk.nbytes)
            value.const_value = _external(value, _link(tensor.extent.path, folder, linked), tensor.extent)
        else:
            written.append((value, tensor))
    if written:
        _write(written, folder, progress)
    return (*linked.values(), *([WEIGHT_FILE] if written else []))


def _write(items: list[tuple[ir.Value, LazyTensor]], folder: Path, progress: Advance) -> None:
    with (folder / WEIGHT_FILE).open("wb") as file:
        for value, tensor in items:
            name, onnx_dtype, _ = _described(value)
            dtype = TORCH_DTYPES[onnx_dtype]
            size = tensor.numel * dtype.itemsize
            file.write(b"\0" * (-file.tell() % alignment(size)))
            offset = file.tell()
            for chunk in tensor.chunks():
                cast = chunk.to(dtype)
                if dtype != tensor.dtype:
                    _check_no_overflow(cast, name, dtype)
                file.write(cast.view(torch.uint8).numpy().data)
                progress(chunk.nbytes)
            value.const_value = _external(value, WEIGHT_FILE, FileExtent(folder / WEIGHT_FILE, offset, size))


def alignment(size: int) -> int:
    """Where in the file a tensor of so many bytes may begin: at multiples of this."""
    return _PAGE if size >= _SMALL else 64


def _external(value: ir.Value, location: str, extent: FileExtent) -> ir.ExternalTensor:
    name, dtype, shape = _described(value)
    return ir.ExternalTensor(location, extent.offset, extent.length, dtype, shape=shape, name=name, base_dir="")


def _described(value: ir.Value) -> tuple[str, ir.DataType, ir.Shape]:
    """Name, dtype and shape, which the tracer gives to every initializer."""
    if value.name is None or value.dtype is None or value.shape is None:
        raise AssertionError(f"the tracer left an initializer without name, dtype or shape: {value}")
    return value.name, value.dtype, value.shape


def _check_no_overflow(values: torch.Tensor, name: str, dtype: torch.dtype) -> None:
    if not torch.isfinite(values).all():
        raise UserError(
            ErrorKind.checkpoint,
            f"weight {name} has values beyond the range of {str(dtype).removeprefix('torch.')}. "
            "Export with --dtype bfloat16 or float32.",
        )


def _link(source: Path, folder: Path, linked: dict[Path, str]) -> str:
    """A hard link to the checkpoint's file in the bundle; ONNX Runtime refuses symbolic links."""
    if source not in linked:
        name = source.name
        target = folder / name
        try:
            os.link(source.resolve(), target)
        except OSError as error:
            _reflink(source, target, error)
        linked[source] = name
    return linked[source]


def _reflink(source: Path, target: Path, error: OSError) -> None:
    """Copy on write where the file system can (Linux FICLONE); never a full copy behind the user's back."""
    try:
        import fcntl

        with source.open("rb") as read, target.open("wb") as write:
            fcntl.ioctl(write.fileno(), 0x40049409, read.fileno())
        shutil.copystat(source, target)
    except (ImportError, OSError):
        target.unlink(missing_ok=True)
        raise UserError(
            ErrorKind.argument,
            f"--link-weights: cannot link {source} into {target.parent} ({error.strerror}). "
            "Write the bundle to the checkpoint's own file system, or leave --link-weights out to copy the weights.",
        ) from None
