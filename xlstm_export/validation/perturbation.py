"""The upstream model with weights moved as far as storing them in a bundle moves them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..modeling.layers import NARROW_BLOCK
from ..references import UpstreamModel
from .tolerance import Quantization, unit_roundoff

_GATES = ("igate", "fgate")  # of an mLSTM: matrices that `quantize` keeps


def perturbed(
    model: UpstreamModel, dtype: torch.dtype, seed: int, quantization: Quantization | None = None
) -> UpstreamModel:
    """A copy of an upstream model with `perturb` done to it."""
    model = copy.deepcopy(model)
    perturb(model.module, dtype, seed, quantization)
    return model


def perturb(network: nn.Module, dtype: torch.dtype, seed: int, quantization: Quantization | None = None) -> None:
    """Make each weight w into w (1 + u x), with u the unit roundoff of `dtype` and x uniform in [-1, 1].

    Only weights that a bundle of that dtype stores in it; rounding moves them by as much. Where they are quantised, the
    matrices of products and the embeddings move by x h as well, with h half a step of the block's codes; gates stay,
    and where a bundle keeps more in a finer format, its weights move by less. It then computes in float32.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, module in network.named_modules():
        for parameter in _stored_in(dtype, module):
            parameter.data = (parameter.data * (1 + unit_roundoff(dtype) * _noise(parameter, generator))).float()
        is_gate = name.rpartition(".")[2].startswith(_GATES)
        if quantization is not None and isinstance(module, (nn.Linear, nn.Embedding)) and not is_gate:
            weight = module.weight.data
            module.weight.data = (weight + quantization.half_step(weight) * _noise(weight, generator)).float()


def _noise(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform in [-1, 1], float64."""
    return 2 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 1


def _stored_in(dtype: torch.dtype, module: nn.Module) -> list[nn.Parameter]:
    """The parameters of one upstream module that a bundle of this dtype holds in it (see `modeling.layers`)."""
    own = list(module.parameters(recurse=False))
    if dtype == torch.float32 or isinstance(module, (nn.Linear, nn.Embedding)):
        return own
    if type(module).__name__ == "LinearHeadwiseExpand" and module.get_parameter("weight").shape[-1] >= NARROW_BLOCK:
        return own
    return [module.get_parameter("_recurrent_kernel_")] if hasattr(module, "_recurrent_kernel_") else []
