"""Random weights everywhere: upstream's initial zeros in gates, recurrent kernels and norms hide errors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Gives every parameter, and the statistics of every BatchNorm, a random value that keeps gates alive.

    Norm weights lie around one as they are applied (the `xlstm` package stores w and applies 1 + w), biases around
    zero, gate biases around what the network was built with; matrices keep the size of what goes through them.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator)

    for path, child in module.named_modules():
        for name, parameter in child.named_parameters(recurse=False):
            parameter.copy_(_value(path, name, child, parameter, noise(parameter)))
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.running_mean is not None:
            child.running_mean.copy_(0.3 * noise(child.running_mean))
            child.running_var.copy_(torch.exp(0.5 * noise(child.running_var)))


def _value(path: str, name: str, module: nn.Module, parameter: Tensor, noise: Tensor) -> Tensor:
    kind = type(module).__name__
    if kind == "_WeightNorm" or name.startswith(("weight_g", "weight_v")):
        return parameter * torch.exp(0.2 * noise)  # magnitudes and directions
    if "Norm" in kind:
        stored_less_one = getattr(module, "residual_weight", False)
        return 0.2 * noise + (name == "weight" and not stored_less_one)
    if path.endswith("gate_preact") and name == "bias":  # upstream's -10 would shut the input gate
        return 2.0 * noise
    if "gate" in path.rpartition(".")[2] or "recurrent_kernel" in name:
        return 0.3 * noise + (parameter if name == "bias" else 0)
    if parameter.ndim == 1:
        return parameter + 0.2 * noise
    if isinstance(module, nn.Embedding):
        return noise
    if "Conv" in kind:
        return noise * parameter[0].numel() ** -0.5
    return noise * parameter.shape[-1] ** -0.5
