"""Random TiRex-2 models, and upstream's model as the tests of every family drive it: see `upstream_models`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MethodType
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

QUANTILES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
MLSTM, SLSTM = "mlstm", "slstm"


def settings(
    recipe: tuple[str, ...] = (MLSTM, SLSTM), *, dim: int = 64, patch: int = 8, heads: int = 4, **changes: Any
) -> dict[str, Any]:
    """`config.json` as a TiRex-2 checkpoint has it."""
    templates = {}
    for name in dict.fromkeys(recipe):
        mixer = {"model_type": f"bi-{name}", "embedding_dim": dim, "num_heads": heads, "num_slstm_heads": heads}
        variates = {"embedding_dim": dim, "num_heads": 4}
        templates[name] = {"time_mixer": mixer, "variate_mixer": variates, "dropout": 0.1, "eps": 1e-7}
    return {
        "stack_config": {"templates": templates, "recipe": list(recipe)},
        "num_blocks": len(recipe),
        "embedding_dim": dim,
        "input_patch_size": patch,
        "output_patch_size": patch,
        "quantiles": QUANTILES,
        "tokenizer_cfg": {"output_patch_size": patch, "input_patch_size": patch, "input_patch_stride": patch},
        "scaler_cfg": {"use_arcsinh": True, "binaryaware": True},
        "h_expand": 2,
        "context_len": 16 * patch,
        "future_len": 32 * patch,
        "input_ff_dim": 48,
        "act_func": "SiLU",
        "dropout": 0.1,
        "stack_out_norm_config": {"eps": 1e-7},
        "tta_diff": True,
    } | changes


def build(config: Mapping[str, Any]) -> nn.Module:
    from xlstm_export.checkpoints.families.tirex2 import from_settings
    from xlstm_export.checkpoints.files.settings import Settings
    from xlstm_export.references.tirex2 import Reference

    return Reference(from_settings(Settings(config, "a test"))[1]).module


def folder(model: nn.Module, config: dict, directory: Path) -> Path:
    """As the hub has it: each parameter under one of its names, as upstream's converter writes it."""
    from tirex2._state_dict import shared_tensor_groups

    tensors = dict(model.state_dict())
    for _, *others in shared_tensor_groups(model):
        for name in others:
            del tensors[name]
    save_file(tensors, str(directory / "model.safetensors"))
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def legacy(model: nn.Module, config: dict, directory: Path) -> Path:
    """`model.ckpt` with every name of a parameter, and `model-config.yaml`, as early checkpoints have it."""
    torch.save({"state_dict": model.state_dict()}, directory / "model.ckpt")
    (directory / "model-config.yaml").write_text(yaml.safe_dump(config))
    return directory


def step(model: nn.Module, patches: Tensor, states: dict[str, Tensor] | None) -> tuple[Tensor, dict[str, Tensor]]:
    """One position of the model; states by the bundle's names, None before the first."""
    from xlstm_export.references.tirex2 import Reference

    reference = Reference.__new__(Reference)
    reference.module = model
    return reference.step(patches, initial_states(model, patches) if states is None else states)


def initial_states(model: nn.Module, like: Tensor) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {}
    for index, block in enumerate(model.stack):
        cell = block.time_mixer.fwd_cell
        heads = cell.config.num_heads
        if hasattr(cell, "recurrence"):
            shapes |= {f"blocks.{index}.slstm.{name}": (heads, cell.config.head_dim) for name in "ycnm"}
        else:
            keys, values = cell.qk_dim // heads, cell.v_dim // heads
            named = {"C": (heads, keys, values), "n": (heads, keys), "m": (heads,)}
            shapes |= {f"blocks.{index}.mlstm.{name}": shape for name, shape in named.items()}
    return {name: like.new_zeros(len(like), *shape) for name, shape in shapes.items()}


def compute_in_double(model: nn.Module) -> None:
    """Take upstream's cast to float32 out of its last norm."""
    norm = model.stack_out_norm
    if hasattr(norm, "variance_epsilon"):
        norm.forward = MethodType(_rms_norm, norm)


def _rms_norm(norm: nn.Module, x: Tensor) -> Tensor:
    return norm.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
