"""Safetensors files: headers are read and checked, tensors stay on disk."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ...errors import ErrorKind, UserError
from .tensors import FileExtent, LazyTensor
from .weights import Weights

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def read_file(path: Path) -> Weights:
    """One file. Names that share a tensor (`safetensors.torch.save_model` stores it once) are all listed."""
    tensors, metadata = _read_header(path)
    for alias, name in metadata.items():
        if name in tensors and alias not in tensors:
            tensors[alias] = tensors[name]
    extras = {key: parsed for key, value in metadata.items() if (parsed := _parse_mapping(value)) is not None}
    return Weights(path, tensors, dict.fromkeys(tensors, path), extras=extras)


def _read_header(path: Path) -> tuple[dict[str, LazyTensor], Mapping[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:  # checks the whole header against the length of the file
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(
            ErrorKind.checkpoint,
            f"{path} is not a complete safetensors file ({' '.join(str(error).split())}). It is truncated or damaged; "
            "fetch or save it again.",
        ) from None
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length), object_pairs_hook=lambda pairs: _unique(path, pairs))
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            raise UserError(
                ErrorKind.checkpoint,
                f"tensor {name} of {path} has dtype {entry['dtype']}, which is not supported. "
                "Give a checkpoint in float32, float16 or bfloat16.",
            )
        start, stop = entry["data_offsets"]
        extent = FileExtent(path, 8 + length + start, stop - start)
        tensors[name] = LazyTensor.stored(name, extent, tuple(entry["shape"]), _DTYPES[entry["dtype"]])
    return tensors, metadata


def _unique(path: Path, pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(
            ErrorKind.checkpoint, f"{path}: tensor {twice} is there twice. The file is damaged; save it again."
        )
    return mapping


def _parse_mapping(text: str) -> dict | None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
