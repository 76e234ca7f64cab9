"""Random TiRex models, and upstream's model as the tests of every family drive it: see `upstream_models`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

QUANTILES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def settings(
    *, patch: int = 8, quantiles: list[float] = QUANTILES, hidden: int = 48, context: int = 128, **blocks: Any
):
    """`hyper_parameters` as a TiRex checkpoint has them; `blocks` go to `block_kwargs`."""
    block_kwargs = {"embedding_dim": 64, "num_heads": 4, "num_blocks": 3} | blocks
    sizes = {"input_patch_size": patch, "output_patch_size": patch, "input_ff_dim": hidden}
    return {"model_config": sizes | {"quantiles": quantiles, "block_kwargs": block_kwargs}, "train_ctx_len": context}


def build(config: Mapping[str, Any]) -> nn.Module:
    from xlstm_export.references.tirex import Reference

    return Reference(config).module


def lightning(model: nn.Module, config: dict, directory: Path) -> Path:
    """`model.ckpt` as the hub has it."""
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": config, "pytorch-lightning_version": "2.4.0"}
    torch.save(checkpoint, directory / "model.ckpt")
    return directory / "model.ckpt"


def lightning_with_old_names(model: nn.Module, config: dict, directory: Path) -> Path:
    """The same with the names of early checkpoints, which upstream renames as it loads."""
    inside = ("blocks.", "out_norm.")
    names = {name: f"block_stack.{name}" if name.startswith(inside) else name for name in model.state_dict()}
    weights = {names[name]: tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": weights, "hyper_parameters": config}, directory / "model.ckpt")
    return directory / "model.ckpt"


def folder(model: nn.Module, config: dict, directory: Path) -> Path:
    """`model.safetensors` with `config.json` beside it, named by the directory."""
    save_file(model.state_dict(), str(directory / "model.safetensors"))
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def step(model: nn.Module, patches: Tensor, states: dict[str, Tensor] | None) -> tuple[Tensor, dict[str, Tensor]]:
    """One position of the model; states by the bundle's names, None before the first."""
    from xlstm_export.references.tirex import Reference

    reference = Reference.__new__(Reference)
    reference.module = model
    if states is None:
        cells = [block.slstm_layer.slstm_cell.config for block in model.blocks]
        shapes = {f"blocks.{i}.slstm.{name}": (c.num_heads, c.head_dim) for i, c in enumerate(cells) for name in "ycnm"}
        states = {name: patches.new_zeros(len(patches), *shape) for name, shape in shapes.items()}
    return reference.step(patches, states)


def compute_in_double(model: nn.Module) -> None:
    """Take upstream's casts to float32 out of the norms of a model of float64 parameters."""
    for module in model.modules():
        if hasattr(module, "_rms_normalize"):
            module.forward = MethodType(lambda self, x: self._rms_normalize(x) * self.weight, module)
