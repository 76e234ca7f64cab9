"""`tirex.models.tirex.TiRexZero`: its blocks step by step, its whole window, and its own forecasts.

Upstream's PyTorch cell (`slstm/cell.py`, `_impl_torch`) rounds inputs, recurrent weights and all four states to
bfloat16, whatever the model's dtype. The recurrence around that, `sLSTMCellTorch.slstm_forward`, computes in float32:
here it is given what the cell is given, unrounded. `as_shipped` is the model with the rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from . import States


class Reference:
    """See `UpstreamModel`; inputs are patches (N, T, 2 P), outputs quantiles (N, T, Q P)."""

    def __init__(self, config: Mapping[str, Any]):
        from tirex.models.tirex import TiRexZero

        self.module = TiRexZero(backend="torch", **config)
        for block in self.module.blocks:
            cell = block.slstm_layer.slstm_cell
            cell._impl_torch = MethodType(_unrounded, cell)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.module._forward_model(inputs)

    def step(self, inputs: Tensor, states: States) -> tuple[Tensor, States]:
        following: States = {}
        x = self.module.input_patch_embedding(inputs)
        for index, block in enumerate(self.module.blocks):  # as `sLSTMBlock.forward`, which drops the state
            layer, at = block.slstm_layer, f"blocks.{index}.slstm"
            normed = block.norm_slstm(x)
            gates = torch.cat([gate(normed) for gate in (layer.fgate, layer.igate, layer.zgate, layer.ogate)], -1)
            y, state = layer.slstm_cell(gates, torch.stack([states[f"{at}.{name}"].flatten(1) for name in "ycnm"]))
            x = x + layer.group_norm(y).transpose(1, 2).reshape(x.shape)
            x = x + block.ffn(block.norm_ffn(x))
            heads = layer.config.num_heads
            following |= {f"{at}.{n}": s.reshape(len(s), heads, -1) for n, s in zip("ycnm", state, strict=True)}
        return self.module.output_patch_embedding(self.module.out_norm(x)), following

    @torch.inference_mode()
    def forecast(self, context: Tensor, horizon: int, rollout: int) -> Tensor:
        """Upstream's own forecast, `rollout` patches a pass: series (N, T), NaN where missing → (N, horizon, Q)."""
        quantiles, _ = self.module._forecast_quantiles(context, horizon, max_accelerated_rollout_steps=rollout)
        return quantiles

    def as_shipped(self) -> Reference:
        """The same model, with upstream's own rounding of its cells to bfloat16."""
        shipped = copy.deepcopy(self)
        for block in shipped.module.blocks:
            del block.slstm_layer.slstm_cell._impl_torch
        return shipped


def _unrounded(cell: Any, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """`sLSTMCell._impl_torch` without its casts: inputs (S, N, 4, H, DH), state (4, N, H DH)."""
    heads, gates, width = cell.config.num_heads, cell.config.num_gates, cell.config.head_dim
    bias = cell._bias_.reshape(heads, gates, width).permute(1, 0, 2).reshape(-1)
    return cell._impl_forward_torch(inputs.flatten(2), state, cell._recurrent_kernel_, bias)
