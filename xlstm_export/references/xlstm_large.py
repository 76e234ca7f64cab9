"""`xlstm.xlstm_large.xLSTMLarge` in inference mode, or its block stack where there is no vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from . import States


class Reference:
    """See `UpstreamModel`."""

    def __init__(self, config: Mapping[str, Any]):
        from xlstm.xlstm_large.model import xLSTMLarge, xLSTMLargeBlockStack, xLSTMLargeConfig

        model = xLSTMLarge if "vocab_size" in config else xLSTMLargeBlockStack
        self.module = model(xLSTMLargeConfig(**{"vocab_size": 1} | dict(config)))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.module(inputs)[0]

    def step(self, inputs: Tensor, states: States) -> tuple[Tensor, States]:
        outputs, native = self.module(inputs, pack_states(states))
        return outputs, unpack_states(native)


def pack_states(states: States) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
    """Into upstream's own: C, n and m of each block."""
    blocks = (f"blocks.{index}.mlstm" for index in range(len(states) // 3))
    return {i: (states[f"{b}.C"], states[f"{b}.n"], states[f"{b}.m"][..., None]) for i, b in enumerate(blocks)}


def unpack_states(native: Mapping[int, tuple[Tensor, Tensor, Tensor]]) -> States:
    """Out of upstream's own: C, n and m of each block."""
    states: States = {}
    for index, (C, n, m) in native.items():
        states |= {f"blocks.{index}.mlstm.C": C, f"blocks.{index}.mlstm.n": n, f"blocks.{index}.mlstm.m": m[..., 0]}
    return states
