"""The list of bad inputs, and what they are made with."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from support.upstream_models import VARIANTS

Arguments = tuple[Path, Path | None]
"""Checkpoint and configuration, as for `open_checkpoint`."""


@dataclass(frozen=True)
class BadInput:
    name: str
    make: Callable[[Path], Arguments]
    """Writes the input into an empty folder."""
    message: str
    """Part of the message of the UserError."""
    when_read: bool = False


BAD_INPUTS: list[BadInput] = []


def bad(message: str, when_read: bool = False) -> Callable:
    """Register a function folder -> checkpoint, or folder -> (checkpoint, configuration), under its own name."""

    def register(function: Callable[[Path], Path | Arguments]) -> Callable:
        def make(folder: Path) -> Arguments:
            made = function(folder)
            return made if isinstance(made, tuple) else (made, None)

        BAD_INPUTS.append(BadInput(function.__name__.strip("_").replace("_", "-"), make, message, when_read))
        return function

    return register


@functools.cache
def _model(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    variant = VARIANTS[name]
    return dict(variant.build(seed=0).state_dict()), variant.config


def weights_of(name: str = "a-mixed") -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in _model(name)[0].items()}


def config_of(name: str = "a-mixed") -> dict[str, Any]:
    return json.loads(json.dumps(_model(name)[1]))


def save(folder: Path, weights: dict[str, Tensor], config: dict | None = None, name: str = "ckpt.pt") -> Path:
    torch.save({"state_dict": weights, "config": config_of() if config is None else config}, folder / name)
    return folder / name


def save_with(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    config = config_of()
    change(config)
    return save(folder, weights_of(), config)


def save_folder(folder: Path, name: str, weights: dict[str, Tensor] | None = None, **settings: Any) -> Path:
    """A checkpoint folder of one of the large families, with some settings changed."""
    save_file(weights_of(name) if weights is None else weights, str(folder / "model.safetensors"))
    config = config_of(name) | settings
    if VARIANTS[name].family == "xlstm-hf":
        (folder / "config.json").write_text(json.dumps({"model_type": "xlstm"} | config))
    else:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def save_shards(folder: Path) -> tuple[Path, dict[str, str]]:
    """Hugging Face folder of two shards, and its weight map."""
    weights = weights_of("c-single")
    names = sorted(weights)
    half = len(names) // 2
    shards = {"model-00001-of-00002.safetensors": names[:half], "model-00002-of-00002.safetensors": names[half:]}
    for shard, part in shards.items():
        save_file({name: weights[name] for name in part}, str(folder / shard))
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    (folder / "config.json").write_text(json.dumps({"model_type": "xlstm"} | config_of("c-single")))
    write_index(folder, weight_map)
    return folder, weight_map


def write_index(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def named(folder: Path, *names: str) -> Path:
    """A state dictionary of another model: names only matter."""
    torch.save({"state_dict": {name: torch.zeros(4, 4) for name in names}}, folder / "model.ckpt")
    return folder / "model.ckpt"
