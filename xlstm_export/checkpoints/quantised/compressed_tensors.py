"""compressed-tensors' layouts `pack-quantized` and `int-quantized` (llm-compressor, vLLM).

pack-quantized: weight_packed (N, K bits / 32) int32 words, codes plus 2^(bits - 1) along the second axis, the lowest
bits first; weight_shape holds N and K; weight_zero_point, where there is one, is packed alike along the first axis.
int-quantized: weight (N, K) int8, weight_zero_point (N, groups) int8. Both: weight_scale (N, groups). Source:
compressed-tensors, `compressors/quantized_compressors/pack_quantized.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..files.codes import StoredMatrix
from ..files.settings import Settings
from ..files.tensors import LazyTensor
from ..files.weights import Weights
from .packing import as_weight, unpacked
from .refusals import refuse, refuse_tensor

ENDINGS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")
FORMATS = ("pack-quantized", "int-quantized", "naive-quantized")


def check(settings: Settings) -> None:
    """See that weights alone are quantised, to integers.

    Raises:
        UserError: they are not.
    """
    if (layout := settings.values.get("format")) not in FORMATS:
        raise refuse(settings, "format", layout)
    groups = settings.values.get("config_groups")
    for name, group in groups.items() if isinstance(groups, Mapping) else ():
        for key in ("input_activations", "output_activations"):
            if isinstance(group, Mapping) and group.get(key):
                raise refuse(settings, f"config_groups.{name}.{key}", "given: activations are quantised")
        scheme = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(scheme, Mapping) or scheme.get("type", "int") != "int":
            raise refuse(settings, f"config_groups.{name}.weights", scheme)


def weight(weights: Weights, module: str) -> LazyTensor:
    """The weight of a module."""
    packed, plain, scale = f"{module}.weight_packed", f"{module}.weight", f"{module}.weight_scale"
    if packed in weights:
        outputs, inputs = (int(size) for size in weights.tensors[f"{module}.weight_shape"].read())
        bits = 32 * weights.shape(packed, 2)[1] / inputs
        if bits not in (4, 8) or weights.shape(packed, 2)[0] != outputs:
            raise refuse_tensor(weights, packed, f"has {bits:g} bits a weight; 4 and 8 are read")
    else:
        (outputs, inputs), bits = weights.shape(plain, 2), 8
        if weights.tensors[plain].dtype != torch.int8:
            raise refuse_tensor(weights, plain, "is no int8, though it has a scale")
    bits, blocks = int(bits), weights.shape(scale, 2)[1]
    if weights.shape(scale, 2)[0] != outputs or inputs % blocks:
        raise refuse_tensor(weights, scale, f"does not fit a weight of {outputs} x {inputs}")
    if f"{module}.weight_g_idx" in weights:
        order = weights.tensors[f"{module}.weight_g_idx"].read()
        if not torch.equal(order.long(), torch.arange(inputs) // (inputs // blocks)):
            raise refuse_tensor(weights, f"{module}.weight_g_idx", "orders inputs by activation (actorder)")
    middle, zero = 2 ** (bits - 1), f"{module}.weight_zero_point"

    def read() -> StoredMatrix:
        zeros = weights.tensors[zero].read() if zero in weights else None
        if packed in weights:
            codes = (unpacked(weights.tensors[packed].read(), bits, 1) - middle).to(torch.int8)
            if zeros is not None and zeros.dtype == torch.int32:
                zeros = (unpacked(zeros, bits, 0)[:outputs] - middle).to(torch.int8)
        else:
            codes = weights.tensors[plain].read()
        return StoredMatrix(codes, weights.tensors[scale].read(), zeros)

    return as_weight((outputs, inputs), bits, blocks, read)
