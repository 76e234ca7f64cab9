"""The one checkpoint in a folder: a file, or shards with an index or with numbers in their names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import ErrorKind, UserError
from .tensors import LazyTensor
from .weights import Weights

Read = Callable[[Path], Weights]
"""Reads one file of weights of any format."""

INDEX_ENDING = ".index.json"
PICKLES = (".pt", ".pth", ".ckpt", ".bin")

_TRAINING = re.compile(
    r"(optimizer|optim|scheduler|scaler|training_args|trainer_state|rng_state|random_states)([_.-].*)?|.*optim_states"
)
"""Stems of files that training loops keep beside the weights."""


@dataclass(frozen=True)
class _Format:
    suffixes: tuple[str, ...]
    whole: str

    @property
    def index(self) -> str:
        return f"{self.whole}{INDEX_ENDING}"


_FORMATS = (_Format((".safetensors",), "model.safetensors"), _Format(PICKLES, "pytorch_model.bin"))
"""The first that a folder holds is read: libraries write both for compatibility."""


def read_folder(folder: Path, read: Read) -> Weights:
    """The tensors of the one checkpoint that a folder holds.

    Raises:
        UserError: there is none, more than one, or a part of one.
    """
    for kind in _FORMATS:
        weights = _read_format(folder, kind, read)
        if weights is not None:
            return replace(weights, path=folder)
    raise UserError(ErrorKind.checkpoint, _nothing(folder))


def read_index(index: Path, read: Read) -> Weights:
    """The shards that an index of Hugging Face's kind lists."""
    folder = index.parent
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError):
        weight_map = None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise UserError(
            ErrorKind.checkpoint,
            f"{index} is not an index of shards: it has no weight_map from the names of tensors to those of files. "
            "Fetch it again.",
        )
    shards = sorted(set(weight_map.values()))
    if bad := [shard for shard in shards if Path(shard).name != shard]:
        raise UserError(
            ErrorKind.checkpoint,
            f"{index} refers to {bad[0]}, which is not a file name in its own folder. Fetch it again.",
        )
    present = {file.name for file in folder.iterdir() if file.is_file()}
    if absent := [shard for shard in shards if shard not in present]:
        raise UserError(
            ErrorKind.checkpoint,
            f"{folder / absent[0]} is missing ({len(absent)} of the {len(shards)} shards that {index.name} lists are). "
            "Fetch the complete checkpoint.",
        )
    weights = _read_shards(folder, [folder / shard for shard in shards], read)
    for name, shard in weight_map.items():
        if name not in weights.tensors or weights.files[name].name != shard:
            raise UserError(
                ErrorKind.checkpoint,
                f"{index} places tensor {name} in {shard}, where it is not. Fetch index and shards again.",
            )
    return weights


def _read_format(folder: Path, kind: _Format, read: Read) -> Weights | None:
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix in kind.suffixes and file.is_file() and not _TRAINING.fullmatch(file.stem.lower())
    )
    index, whole = folder / kind.index, folder / kind.whole
    numbered = {int(m[1]): file for file in files if (m := re.fullmatch(r"model_(\d+)", file.stem))}
    counted = {file: m for file in files if (m := re.fullmatch(r"(.+)-(\d+)-of-(\d+)", file.stem))}
    if index.is_file():
        weights = read_index(index, read)
        listed = set(weights.files.values())
        left = [file for file in (whole, *numbered.values(), *counted) if file.is_file() and file not in listed]
        if left:
            _refuse_two(folder, index.name, f"{left[0].name}, which it does not list")
        return weights
    if whole.is_file() and numbered:
        _refuse_two(folder, whole.name, next(iter(numbered.values())).name)
    if whole.is_file():
        return read(whole)
    if numbered:
        if absent := sorted(set(range(max(numbered) + 1)) - set(numbered)):
            _refuse_gap(folder, f"model_{absent[0]}{numbered[max(numbered)].suffix}")
        return _read_shards(folder, [numbered[n] for n in sorted(numbered)], read)
    if counted and len(counted) == len(files):
        name, _, total = next(iter(counted.values())).groups()
        expected = [f"{name}-{n + 1:0{len(total)}}-of-{total}{files[0].suffix}" for n in range(int(total))]
        for shard in expected:
            if not (folder / shard).is_file():
                _refuse_gap(folder, shard)
        return _read_shards(folder, [folder / shard for shard in expected], read)
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:4])
        what = "safetensors files" if kind is _FORMATS[0] else "files of weights"
        raise UserError(
            ErrorKind.checkpoint, f"{folder} holds several {what} ({names}) and no index. Name the one to export."
        )
    return read(files[0]) if files else None


def _read_shards(folder: Path, files: list[Path], read: Read) -> Weights:
    """Several files that together hold one model."""
    tensors: dict[str, LazyTensor] = {}
    where: dict[str, Path] = {}
    extras: dict[str, object] = {}
    for file in files:
        weights = read(file)
        for name, tensor in weights.tensors.items():
            if name in tensors:
                raise UserError(
                    ErrorKind.checkpoint,
                    f"tensor {name} is in both {where[name]} and {file}. Remove the file that is left over.",
                )
            tensors[name], where[name] = tensor, file
        extras |= weights.extras
    return Weights(folder, tensors, where, extras=extras)


def _refuse_two(folder: Path, first: str, second: str) -> None:
    raise UserError(
        ErrorKind.checkpoint, f"{folder} holds {first} and {second}: two checkpoints in one. Remove what is left over."
    )


def _refuse_gap(folder: Path, shard: str) -> None:
    raise UserError(ErrorKind.checkpoint, f"{folder / shard} is missing. Fetch the complete checkpoint.")


def _nothing(folder: Path) -> str:
    """What to say of a folder without weights, which may hold folders with some."""
    suffixes = {suffix for kind in _FORMATS for suffix in kind.suffixes}
    inside = [
        sub for sub in folder.iterdir() if sub.is_dir() and any(file.suffix in suffixes for file in sub.iterdir())
    ]
    if not inside:
        return f"{folder} holds no weights (no {', '.join(('.safetensors', *PICKLES[:-1]))} or {PICKLES[-1]} file)."
    inside.sort(key=lambda sub: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", sub.name)])
    shown = ", ".join(sub.name for sub in inside[-6:])
    return f"{folder} holds no weights itself, but {shown} do. Name the one to export: {inside[-1]}"
