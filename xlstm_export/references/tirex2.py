"""`tirex2.model.tirex2.TiRex2` on single series: its blocks step by step, its whole window, and its own forecasts.

On the CPU upstream computes in float32 throughout, so that what is as shipped is the reference itself. (Its CUDA
kernels compute in bfloat16.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import States


class Reference:
    """See `UpstreamModel`; inputs are patches (N, T, 2 P), outputs quantiles (N, T, Q P)."""

    def __init__(self, config: Mapping[str, Any]):
        from tirex2.model.tirex2 import TiRex2

        with torch.device("cpu"):  # it moves itself to its device, which it cannot from "meta"
            self.module = TiRex2(**config)

    def forward(self, inputs: Tensor) -> Tensor:
        module, rows = self.module, len(inputs)
        with torch.compiler.set_stance("force_eager"):  # upstream compiles its residual networks
            x = module.input_patch_embedding(inputs)
            groups, targets = torch.arange(1.0, 1 + rows), torch.ones(rows, dtype=torch.bool)
            *_, x = module._forward_layerwise(x, groups, targets, ~targets)
            return module.output_patch_embedding(module.stack_out_norm(x))

    def step(self, inputs: Tensor, states: States) -> tuple[Tensor, States]:
        following: States = {}
        with ExitStack() as stack:
            for index, block in enumerate(self.module.stack):
                cell = block.time_mixer.fwd_cell
                carry = _slstm_states if hasattr(cell, "recurrence") else _mlstm_states
                stack.enter_context(carry(cell, f"blocks.{index}", states, following))
            return self.forward(inputs), following

    def forecast(self, series: Sequence[np.ndarray], horizon: int, rollout: int) -> np.ndarray:
        """See `ForecastingModel`; all patches of a horizon come from one window, whatever the rollout."""
        from tirex2.model.types import TimeseriesType

        rows = [TimeseriesType(torch.from_numpy(row)[None], None, None) for row in series]
        with torch.compiler.set_stance("force_eager"):
            forecasts = self.module.predict(rows, horizon)
        return torch.cat(forecasts).transpose(1, 2).numpy()

    def as_shipped(self) -> Reference:
        """The same: nothing is left out of upstream's code."""
        return self


@contextmanager
def _replaced(module: Any, name: str, method: Any) -> Iterator[None]:
    setattr(module, name, method)
    try:
        yield
    finally:
        delattr(module, name)


def _slstm_states(cell: Any, at: str, states: States, following: States) -> Any:
    """`_FlashRNNLayer.forward`, which begins at zero and forgets its states, goes on from these."""
    packed = torch.stack([states[f"{at}.slstm.{name}"] for name in "ycnm"])[:, :, None]  # (4, N, 1, H, DH)

    def recurrence(gates: Tensor) -> tuple[Tensor, Tensor]:
        outputs, last = type(cell).recurrence(cell, gates, packed)
        following.update({f"{at}.slstm.{name}": state[:, 0] for name, state in zip("ycnm", last, strict=True)})
        return outputs, last

    return _replaced(cell, "recurrence", recurrence)


def _mlstm_states(cell: Any, at: str, states: States, following: States) -> Any:
    """`mLSTMLayer.forward`, likewise, on the backend's own kernel for steps."""
    from mlstm_kernels.torch.backend_module import mLSTMBackend

    config = dataclasses.replace(cell.mlstm_backend.config, mode="inference", return_last_states=True)
    backend = mLSTMBackend(config)
    C, n, m = (states[f"{at}.mlstm.{name}"] for name in "Cnm")

    def forward(**inputs: Tensor) -> Tensor:
        outputs, last = backend(**inputs, c_initial=C, n_initial=n, m_initial=m[..., None])
        following.update({f"{at}.mlstm.{name}": state for name, state in zip("Cnm", last, strict=True)})
        following[f"{at}.mlstm.m"] = following[f"{at}.mlstm.m"][..., 0]
        return outputs

    return _replaced(cell.mlstm_backend, "forward", forward)
