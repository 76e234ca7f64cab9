"""`xlstm.xLSTMLMModel` and `xlstm.xLSTMBlockStack`, through `.step`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import States


class Reference:
    """See `UpstreamModel`."""

    def __init__(self, config: Mapping[str, Any]):
        from dacite import from_dict
        from xlstm import xLSTMBlockStack, xLSTMBlockStackConfig, xLSTMLMModel, xLSTMLMModelConfig

        config = copy.deepcopy(dict(config))  # upstream writes into it
        if "vocab_size" in config:
            self.module = xLSTMLMModel(from_dict(xLSTMLMModelConfig, config))
            self._stack = self.module.xlstm_block_stack
        else:
            self.module = self._stack = xLSTMBlockStack(from_dict(xLSTMBlockStackConfig, config))
        for block in self._stack.blocks:  # it is in no checkpoint; without it, upstream makes one of the right length
            if hasattr(block.xlstm, "mlstm_cell"):
                block.xlstm.mlstm_cell.causal_mask = None

    def forward(self, inputs: Tensor) -> Tensor:
        return self.module(inputs)

    def step(self, inputs: Tensor, states: States) -> tuple[Tensor, States]:
        outputs, native = self.module.step(inputs, state=self._pack(states))
        return outputs, self._unpack(native)

    def _pack(self, states: States) -> dict[str, dict]:
        native = {}
        for index, block in enumerate(self._stack.blocks):
            if hasattr(block.xlstm, "mlstm_cell"):
                layer = f"blocks.{index}.mlstm"
                C, n, m = (states[f"{layer}.{name}"] for name in "Cnm")
                cell: dict[str, Any] = {"mlstm_state": (C, n[..., None], m[..., None, None])}
            else:
                layer = f"blocks.{index}.slstm"
                cell = {"slstm_state": torch.stack([states[f"{layer}.{name}"].flatten(1) for name in "ycnm"])}
            window = states.get(f"{layer}.conv")
            # Upstream's window has one column more, the oldest, which is dead after the shift.
            conv = None if window is None else (nn.functional.pad(window, (0, 0, 1, 0)),)
            native[f"block_{index}"] = cell | {"conv_state": conv}
        return native

    def _unpack(self, native: dict[str, dict]) -> States:
        states: States = {}
        for index, block in enumerate(self._stack.blocks):
            entry = native[f"block_{index}"]
            if "mlstm_state" in entry:
                layer, (C, n, m) = f"blocks.{index}.mlstm", entry["mlstm_state"]
                states |= {f"{layer}.C": C, f"{layer}.n": n[..., 0], f"{layer}.m": m[..., 0, 0]}
            else:
                layer, heads = f"blocks.{index}.slstm", block.xlstm.config.num_heads
                for name, value in zip("ycnm", entry["slstm_state"], strict=True):
                    states[f"{layer}.{name}"] = value.reshape(len(value), heads, -1)
            if entry["conv_state"] is not None:
                states[f"{layer}.conv"] = entry["conv_state"][0][:, 1:]
        return states
