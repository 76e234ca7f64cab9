"""The networks of `support.small_networks` as modules of PyTorch: what a user would have written."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Summing(nn.Module):
    """Of `summing_network`."""

    def forward(self, x: Tensor, w: Tensor, scale: Tensor) -> dict[str, Tensor]:
        sums = (x * w[:, 0, :, None]).cumsum(1)
        return {"sums": sums, "last": sums[:, -1], "scaled": sums.transpose(1, 2) * scale[..., None]}


class Policy(nn.Module):
    """Of `policy_network`: the state is carried by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(0.5))

    def forward(self, observation: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        memory = observation if memory is None else self.decay * memory + observation
        return memory[:, :2], memory.sum(1, keepdim=True), memory


class Window(nn.Module):
    """Of `window_network`."""

    def forward(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        kept = x * mask[..., None]
        pairs = nn.functional.avg_pool1d(x.transpose(1, 2), 2).transpose(1, 2)
        return {"mean": kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1), "pairs": pairs}
