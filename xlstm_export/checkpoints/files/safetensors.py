"""Safetensors files, whole or in shards: headers are read and checked, tensors stay on disk."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ...errors import ErrorKind, UserError
from .tensors import FileExtent, LazyTensor
from .weights import Weights

INDEX = "model.safetensors.index.json"

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


def read_shards(path: Path, files: list[Path]) -> Weights:
    """Several files that together hold one model."""
    tensors: dict[str, LazyTensor] = {}
    where: dict[str, Path] = {}
    for file in files:
        for name, tensor in read_file(file).tensors.items():
            if name in tensors:
                raise UserError(
                    ErrorKind.checkpoint,
                    f"tensor {name} is in both {where[name]} and {file}. Remove the file that is left over.",
                )
            tensors[name], where[name] = tensor, file
    return Weights(path, tensors, where)


def read_indexed(index: Path) -> Weights:
    """The shards that a Hugging Face index lists."""
    folder = index.parent
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        raise UserError(
            ErrorKind.checkpoint, f"{index} is not a safetensors index (no weight_map). Fetch it again."
        ) from None
    if bad := [shard for shard in shards if not isinstance(shard, str) or Path(shard).name != shard]:
        raise UserError(
            ErrorKind.checkpoint,
            f"{index} refers to {bad[0]}, which is not a file name in its own folder. Fetch it again.",
        )
    if absent := [shard for shard in shards if not (folder / shard).is_file()]:
        raise UserError(
            ErrorKind.checkpoint,
            f"{folder / absent[0]} is missing ({len(absent)} of the {len(shards)} shards that {index.name} lists are). "
            "Fetch the complete checkpoint.",
        )
    weights = read_shards(folder, [folder / shard for shard in shards])
    for name, shard in weight_map.items():
        if name not in weights.tensors or weights.files[name].name != shard:
            raise UserError(
                ErrorKind.checkpoint,
                f"{index} places tensor {name} in {shard}, where it is not. Fetch index and shards again.",
            )
    return weights


def read_folder(folder: Path) -> Weights | None:
    """The safetensors checkpoint in a folder: one file, an index, `model_N`, or `NAME-0000k-of-0000n`; None without."""
    index, whole = folder / INDEX, folder / "model.safetensors"
    files = sorted(folder.glob("*.safetensors"))
    numbered = {int(m[1]): f for f in files if (m := re.fullmatch(r"model_(\d+)\.safetensors", f.name))}
    counted = {f: m for f in files if (m := re.fullmatch(r"(.+)-(\d+)-of-(\d+)\.safetensors", f.name))}
    present = [
        *([index.name] if index.is_file() else []),
        *([whole.name] if whole.is_file() else []),
        *(["model_N.safetensors"] if numbered else []),
    ]
    if len(present) > 1:
        raise UserError(
            ErrorKind.checkpoint,
            f"{folder} holds {' and '.join(present)}: two checkpoints in one. Remove what is left over.",
        )
    if index.is_file():
        return read_indexed(index)
    if whole.is_file():
        return _at(folder, read_file(whole))
    if numbered:
        _complete(folder, sorted(numbered), range(max(numbered) + 1), "model_{}.safetensors")
        return read_shards(folder, [numbered[n] for n in sorted(numbered)])
    if counted and len(counted) == len(files):
        name, _, total = next(iter(counted.values())).groups()
        digits = len(total)
        expected = [f"{name}-{n + 1:0{digits}}-of-{total}.safetensors" for n in range(int(total))]
        if absent := [shard for shard in expected if not (folder / shard).is_file()]:
            raise UserError(ErrorKind.checkpoint, f"{folder / absent[0]} is missing. Fetch the complete checkpoint.")
        return read_shards(folder, [folder / shard for shard in expected])
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:4])
        raise UserError(
            ErrorKind.checkpoint,
            f"{folder} holds several safetensors files ({names}) and no index. Name the one to export.",
        )
    return _at(folder, read_file(files[0])) if files else None


def _complete(folder: Path, found: list[int], expected: range, pattern: str) -> None:
    if absent := sorted(set(expected) - set(found)):
        raise UserError(
            ErrorKind.checkpoint, f"{folder / pattern.format(absent[0])} is missing. Fetch the complete checkpoint."
        )


def _at(path: Path, weights: Weights) -> Weights:
    return replace(weights, path=path)


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
