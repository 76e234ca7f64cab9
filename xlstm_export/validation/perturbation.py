"""The upstream model with weights moved as far as storing them in a bundle's dtype moves them."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ..modeling.layers import NARROW_BLOCK
from ..references import UpstreamModel
from .tolerance import unit_roundoff


def perturbed(model: UpstreamModel, dtype: torch.dtype, seed: int) -> UpstreamModel:
    """A copy of an upstream model with `perturb` done to it."""
    model = copy.deepcopy(model)
    perturb(model.module, dtype, seed)
    return model


def perturb(network: nn.Module, dtype: torch.dtype, seed: int) -> None:
    """Make each weight w into w (1 + u x), with u the unit roundoff of `dtype` and x uniform in [-1, 1].

    Only weights that a bundle of that dtype stores in it; rounding moves them by as much. It then computes in float32.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        for parameter in _stored_in(dtype, module):
            noise = 2 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 1
            parameter.data = (parameter.data * (1 + unit_roundoff(dtype) * noise)).float()


def _stored_in(dtype: torch.dtype, module: nn.Module) -> list[nn.Parameter]:
    """The parameters of one upstream module that a bundle of this dtype holds in it (see `modeling.layers`)."""
    own = list(module.parameters(recurse=False))
    if dtype == torch.float32 or isinstance(module, (nn.Linear, nn.Embedding)):
        return own
    if type(module).__name__ == "LinearHeadwiseExpand" and module.get_parameter("weight").shape[-1] >= NARROW_BLOCK:
        return own
    return [module.get_parameter("_recurrent_kernel_")] if hasattr(module, "_recurrent_kernel_") else []
