"""TiRex' sLSTM cell without its rounding: what a bundle, whose states are float32, is compared with.

Upstream's PyTorch cell (`tirex/models/slstm/cell.py`, `_impl_torch`) rounds inputs, recurrent weights and all four
states to bfloat16, whatever the model's dtype. Its CUDA cell runs on no CPU.
"""

from __future__ import annotations

import sys
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


def is_tirex_cell(module: nn.Module) -> bool:
    """Whether an `sLSTMCell` is that of `tirex-ts`, or of a copy of it, not that of the `xlstm` package."""
    return type(module).__name__ == "sLSTMCell" and hasattr(module, "_impl_torch")


def run_unrounded(network: nn.Module) -> bool:
    """Have TiRex' cells compute in the dtype of their inputs, in place; returns whether there are any."""
    cells: list[Any] = [module for module in network.modules() if is_tirex_cell(module)]
    for cell in cells:
        cell.backend, cell._impl_torch = "torch", MethodType(_recurrence, cell)
    return bool(cells)


def _recurrence(cell: Any, inputs: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """`_impl_torch`, and the loop of `sLSTMCellTorch.slstm_forward`, around upstream's own step, without their casts.

    Inputs (S, B, 4, H, DH) and states (4, B, H * DH) to outputs (S, B, H * DH) and states.
    """
    upstream = sys.modules[type(cell).__module__].sLSTMCellTorch
    heads, gates, width = cell.config.num_heads, cell.config.num_gates, cell.config.head_dim
    bias = cell._bias_.reshape(heads, gates, width).transpose(0, 1).reshape(-1)
    outputs, now = [], [*states]
    for x in inputs.flatten(2):
        y = now[0].reshape(len(x), heads, 1, width) @ cell._recurrent_kernel_
        recurrent = y.reshape(len(x), heads, gates, width).transpose(1, 2).reshape(len(x), -1)
        now = upstream.slstm_forward_pointwise(x, recurrent, bias, now)
        outputs.append(now[0])
    return torch.stack(outputs), torch.stack(now)
