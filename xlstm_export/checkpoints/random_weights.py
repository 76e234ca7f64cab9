"""Random weights for an architecture, for benchmarks and tests: values like a trained model's, nothing at zero."""

from __future__ import annotations

import functools
import zlib
from pathlib import Path

import torch

from ..modeling.architecture import Architecture
from ..modeling.model import Model
from .checkpoint import Checkpoint
from .files.tensors import LazyTensor
from .open import NOTHING_SAID, ReadOptions, read_config


def random_checkpoint(config_file: Path, seed: int, options: ReadOptions = NOTHING_SAID) -> Checkpoint:
    """A checkpoint that a configuration file alone describes (`xlstm-export onnx CONFIG --random-init`)."""
    family, architecture, config = read_config(config_file, options)
    tensors = random_tensors(architecture, seed)
    return Checkpoint(family, config_file, (), architecture, tensors, config, companions=(config_file,))


def random_tensors(architecture: Architecture, seed: int) -> dict[str, LazyTensor]:
    """Float32 tensors by canonical name, made when read: each depends on the seed and its own name only."""
    with torch.device("meta"):
        parameters = dict(Model(architecture).named_parameters())
    return {
        name: LazyTensor(tuple(p.shape), torch.float32, functools.partial(_draw, name, p.shape, seed))
        for name, p in parameters.items()
    }


def _draw(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ seed)
    noise = torch.randn(shape, generator=generator)
    layer, kind = name.split(".")[-2:] if "." in name else ("", name)
    if kind == "weight" and "norm" in layer or kind == "skip":
        return 1 + 0.1 * noise
    if layer == "fgate" and kind == "bias":  # forget gates open, as after training
        return 4 + noise
    if layer == "igate" and kind == "bias":
        return noise - 2
    if kind == "b":  # sLSTM biases (4, H, DH): gates i, f, z, o
        return 0.5 * noise + torch.tensor([-1.0, 3.0, 0.0, 0.0])[:, None, None]
    if kind == "bias":
        return 0.1 * noise
    if layer == "embedding":
        return noise
    return noise * shape[-1] ** -0.5 if layer != "conv" else noise * shape[0] ** -0.5
