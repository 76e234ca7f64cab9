"""`transformers.xLSTMForCausalLM`, or `xLSTMModel` where there is no head, with their cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from . import States
from .xlstm_large import pack_states, unpack_states


class Reference:
    """See `UpstreamModel`."""

    def __init__(self, config: Mapping[str, Any]):
        from transformers.models.xlstm.configuration_xlstm import xLSTMConfig
        from transformers.models.xlstm.modeling_xlstm import xLSTMCache, xLSTMForCausalLM, xLSTMModel

        self._output = "last_hidden_state" if config.get("architectures") == ["xLSTMModel"] else "logits"
        self.module = (xLSTMForCausalLM if self._output == "logits" else xLSTMModel)(xLSTMConfig(**config))
        self._cache = xLSTMCache(self.module.config, 0, dtype=torch.float32, device="cpu")

    def forward(self, inputs: Tensor) -> Tensor:
        return getattr(self.module(inputs, use_cache=False), self._output)

    def step(self, inputs: Tensor, states: States) -> tuple[Tensor, States]:
        # A cache of upstream's own has widths rounded up to 64, which its layers refuse for many models.
        self._cache.rnn_state = pack_states(states)
        output = self.module(inputs, None, self._cache, use_cache=True)  # by place: its name is not the same everywhere
        return getattr(output, self._output), unpack_states(self._cache.rnn_state)
