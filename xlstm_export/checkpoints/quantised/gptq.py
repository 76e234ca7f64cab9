"""GPTQ's layout, which AutoRound writes too: `qweight`, `qzeros`, `scales`, `g_idx` in place of `weight`.

qweight (K bits / 32, N) and qzeros (groups, N bits / 32) are int32 words of unsigned codes, packed along the first and
the second axis; scales are (groups, N), g_idx (K) says which group an input is in. Of the formats `gptq` and `gptq_v2`
(GPTQModel), the first stores zero points less one. Sources: AutoGPTQ, `qlinear_cuda.py`; GPTQModel,
`nn_modules/qlinear`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..files.codes import StoredMatrix
from ..files.settings import Settings
from ..files.tensors import LazyTensor
from ..files.weights import Weights
from .packing import as_weight, unpacked
from .refusals import refuse, refuse_tensor

ENDINGS = ("qweight", "qzeros", "scales", "g_idx")
AS_STORED, LESS_ONE = 0, 1
"""What is added to a stored zero point."""
FORMATS = {"gptq": LESS_ONE, "gptq_v2": AS_STORED}
PACKINGS = {
    "auto_round:auto_gptq": LESS_ONE,
    "auto_round:auto_gptq:exllamav2": LESS_ONE,
    "auto_round": AS_STORED,
    "auto_round:gptqmodel": AS_STORED,
    "auto_round:exllamav2": AS_STORED,
}
"""AutoRound's names of this layout (auto-round, `export_to_autoround/export.py`, `humming/qlinear_humming.py`)."""


@dataclass(frozen=True)
class Layout:
    """How zero points are to be read."""

    zero_offset: int
    symmetric: bool
    """All are in the middle of the codes."""

    @staticmethod
    def of(settings: Settings) -> Layout:
        """That of a `quantization_config`.

        Raises:
            UserError: it is of another layout than this module's.
        """
        auto_round = settings.values.get("quant_method") == "auto-round"
        key, known = ("packing_format", PACKINGS) if auto_round else ("checkpoint_format", FORMATS)
        value = settings.values.get(key, next(iter(known)))
        if value not in known:
            raise refuse(settings, key, value)
        if settings.values.get("is_marlin_format"):
            raise refuse(settings, "is_marlin_format", True)
        return Layout(known[str(value)], settings.boolean("sym", False))


def weight(weights: Weights, module: str, layout: Layout) -> LazyTensor:
    """The weight of a module."""
    packed, scales = f"{module}.qweight", f"{module}.scales"
    words, outputs = weights.shape(packed, 2)
    groups = weights.shape(scales, 2)[0]
    inputs = weights.shape(f"{module}.g_idx", 1)[0] if f"{module}.g_idx" in weights else _inputs(weights, module)
    bits = 32 * words / inputs
    if bits not in (4, 8):
        raise refuse_tensor(weights, packed, f"has {bits:g} bits a weight; 4 and 8 are read")
    bits = int(bits)
    shapes = {scales: (groups, outputs), f"{module}.qzeros": (groups, outputs * bits // 32)}
    for name, shape in shapes.items():
        if weights.shape(name, 2) != shape or outputs * bits % 32 or inputs % groups:
            raise refuse_tensor(weights, name, f"does not fit a weight of {outputs} x {inputs} in {groups} groups")
    if f"{module}.g_idx" in weights:
        order = weights.tensors[f"{module}.g_idx"].read()
        if not torch.equal(order.long(), torch.arange(inputs) // (inputs // groups)):
            raise refuse_tensor(
                weights, f"{module}.g_idx", "orders inputs by activation (desc_act), so that groups lie scattered"
            )
    middle = 2 ** (bits - 1)

    def read() -> StoredMatrix:
        codes = unpacked(weights.tensors[packed].read(), bits, 0).T - middle
        zeros = unpacked(weights.tensors[f"{module}.qzeros"].read(), bits, 1).T + (layout.zero_offset - middle)
        if int(zeros.max()) >= middle:
            raise refuse_tensor(weights, f"{module}.qzeros", f"has a zero point of {2**bits}, beyond {bits} bits")
        if layout.symmetric and zeros.any():
            raise refuse_tensor(weights, f"{module}.qzeros", "has zero points off the middle, though sym is true")
        return StoredMatrix(codes.to(torch.int8), weights.tensors[scales].read().T, zeros.to(torch.int8))

    return as_weight((outputs, inputs), bits, groups, read)


def _inputs(weights: Weights, module: str) -> int:
    """K, where no g_idx tells it: of the words as many as zero points say that codes are in one."""
    words, outputs = weights.shape(f"{module}.qweight", 2)
    zeros = weights.shape(f"{module}.qzeros", 2)[1]
    return words * outputs // zeros
