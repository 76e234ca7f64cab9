"""`tirex.models.tirex.TiRexZero`: its blocks step by step, its whole window, and its own forecasts.

Upstream's PyTorch cell rounds to bfloat16; here it does not (`networks.unrounded`). `as_shipped` is the model with the
rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..networks.unrounded import run_unrounded
from . import States


class Reference:
    """See `UpstreamModel`; inputs are patches (N, T, 2 P), outputs quantiles (N, T, Q P)."""

    def __init__(self, config: Mapping[str, Any]):
        from tirex.models.tirex import TiRexZero

        self.module = TiRexZero(backend="torch", **config)
        run_unrounded(self.module)

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
    def forecast(self, series: Sequence[np.ndarray], horizon: int, rollout: int) -> np.ndarray:
        """See `ForecastingModel`. Series of many lengths are put together as upstream does it."""
        longest = max(map(len, series))
        padded = np.stack([np.pad(row, (longest - len(row), 0), constant_values=np.nan) for row in series])
        quantiles, _ = self.module._forecast_quantiles(
            torch.from_numpy(padded), horizon, max_accelerated_rollout_steps=rollout
        )
        return quantiles.numpy()

    def as_shipped(self) -> Reference:
        """The same model, with upstream's own rounding of its cells to bfloat16."""
        shipped = copy.deepcopy(self)
        for block in shipped.module.blocks:
            del block.slstm_layer.slstm_cell._impl_torch
        return shipped
