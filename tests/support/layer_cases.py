"""What stands around the cells: random inputs, what the eager operators make of them in float64, and bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xlstm_export.operators import eager_layers as eager
from xlstm_export.operators.names import (
    ADD_LAYER_NORM,
    ADD_RMS_NORM,
    CAUSAL_CONV,
    GATED_HEAD_NORM,
    GEGLU,
    HEAD_NORM,
    MLSTM_HEADS,
    MLSTM_PROJECTIONS,
    SKIP_GATED_HEAD_NORM,
    SLSTM_PROJECTIONS,
    SOFT_CAP,
    SWIGLU,
)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
ROUNDOFF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@dataclass(frozen=True)
class LayerCase:
    """A call of one operator; `lengths` and what the operator takes, in its order and its types."""

    name: str
    tensors: dict[str, Tensor]
    attributes: dict[str, Any]
    outputs: tuple[str, ...]
    terms: int
    """Numbers that a sum has at most, whose rounding errors add up."""
    typed: tuple[str, ...] = ()
    """Names of what has the operator's type T; everything else is float32."""
    lengths: Tensor | None = None
    batch: int = 1

    @property
    def sequence(self) -> int:
        return next(iter(self.tensors.values())).shape[0] // self.batch

    def valid(self, output: Tensor) -> Tensor:
        """Of an output (N, ...) or (B, S, ...), what is not padding; the whole of a state."""
        if self.lengths is None or output.shape[:1] != (self.batch,) and output.shape[0] != self.batch * self.sequence:
            return output
        rows = output.reshape(self.batch, self.sequence, -1)
        return torch.cat([row[:length] for row, length in zip(rows, self.lengths, strict=True)])

    def check(self, results: dict[str, np.ndarray]) -> None:
        """Against the eager operator in float64. Each result may differ by the rounding of `terms` terms of the largest
        sum, and by that of its own dtype and of what it is made of."""
        exact = {name: tensor.double() for name, tensor in self.tensors.items()}
        operator: Callable = OPERATORS[self.name]
        keywords = {"lengths": self.lengths} if self.name in HAVE_LENGTHS else {}
        reference = operator(*exact.values(), **self.attributes, **keywords)
        reference = (reference,) if isinstance(reference, Tensor) else reference
        for name, expected in zip(self.outputs, reference, strict=True):
            actual = torch.from_numpy(np.asarray(results[name], np.float32)).double().reshape(expected.shape)
            roundoff = max(ROUNDOFF[self.tensors[t].dtype] for t in self.tensors)
            if name != "window_next":
                expected, actual = self.valid(expected), self.valid(actual)
            if not expected.numel():
                continue
            size = max(1.0, float(expected.abs().max()))
            tolerance = size * (self.terms * 2.0**-24 + 4 * roundoff)
            torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


OPERATORS: dict[str, Callable] = {
    CAUSAL_CONV: eager.causal_conv,
    MLSTM_PROJECTIONS: eager.mlstm_projections,
    SLSTM_PROJECTIONS: eager.slstm_projections,
    MLSTM_HEADS: eager.mlstm_heads,
    HEAD_NORM: eager.head_norm,
    GATED_HEAD_NORM: eager.gated_head_norm,
    SKIP_GATED_HEAD_NORM: eager.skip_gated_head_norm,
    ADD_LAYER_NORM: eager.add_layer_norm,
    ADD_RMS_NORM: eager.add_rms_norm,
    GEGLU: eager.geglu,
    SWIGLU: eager.swiglu,
    SOFT_CAP: eager.soft_cap,
}
HAVE_LENGTHS = (CAUSAL_CONV, MLSTM_PROJECTIONS, SLSTM_PROJECTIONS, MLSTM_HEADS)


def layer_case(name: str, seed: int, lengths: bool, dtype: str = "float32") -> LayerCase:
    """A case of random sizes, around the widths of vectors. `lengths`: a sequence with rows of different lengths; else
    one position a row."""
    rng = torch.Generator().manual_seed(seed)
    pick = lambda *values: values[int(torch.randint(len(values), (1,), generator=rng))]  # noqa: E731
    normal = lambda *shape: torch.randn(*shape, generator=rng)  # noqa: E731
    batch, sequence = pick(1, 2, 3, 5), pick(1, 2, 7, 40) if lengths else 1
    rows = torch.randint(0, sequence + 1, (batch,), generator=rng).int() if lengths else None
    count = batch * sequence
    common = dict(lengths=rows, batch=batch)
    if name == CAUSAL_CONV:
        dim, kernel = pick(1, 5, 16, 33, 260, 513), pick(1, 2, 4, 5)
        tensors = {"x": normal(count, dim + pick(0, 3)), "window": normal(batch, kernel - 1, dim)}
        tensors |= {"weight": normal(kernel, dim), "bias": normal(dim)}
        return LayerCase(name, tensors, {}, ("y", "window_next"), kernel + 4, **common)
    kind, heads = DTYPES[dtype], pick(1, 2, 4)
    if name == MLSTM_PROJECTIONS:
        width, groups = pick(1, 2, 4, 4, 8, 16), heads * pick(1, 2, 3, 5, 24)
        inner = groups * width
        together = pick(*(n for n in (1, 2, 4) if groups % n == 0))
        tensors = {"x_conv": normal(count, inner), "x": normal(count, inner * pick(1, 2))}
        tensors |= {f"{one}_weight": normal(groups, width, width) * width**-0.5 for one in "qkv"}
        for gate in "if":
            tensors[f"{gate}_weight"] = (normal(heads, 3 * inner) * inner**-0.5).to(kind)
            tensors[f"{gate}_bias"] = normal(heads).to(kind)
        typed = (*(n for n in tensors if n[0] in "if"), *"qkvif")
        return LayerCase(name, tensors, {"together": together}, tuple("qkvif"), 3 * inner + 4, typed, **common)
    dim = pick(1, 3, 16, 40, 97)
    if name == SLSTM_PROJECTIONS:
        heads = pick(2, 4)
        tensors = {"x_conv": normal(count, heads * dim), "x": normal(count, heads * dim)}
        tensors |= {f"{gate}_weight": (normal(heads, dim, dim) * dim**-0.5).to(kind) for gate in "ifzo"}
        typed = (*(f"{gate}_weight" for gate in "ifzo"), "gates")
        return LayerCase(name, tensors, {"together": pick(1, 2)}, ("gates",), dim + 4, typed, **common)
    if name == MLSTM_HEADS:
        wide = pick(1, 8, 33)
        tensors = {"x": normal(count, 2 * heads * (wide + dim)).to(kind), "gates": normal(count, 2 * heads).to(kind)}
        numbers = {"heads": heads, "qk_head": wide, "v_head": dim}
        return LayerCase(name, tensors, numbers, tuple("qkvifo"), 0, ("x", "gates", *"qkvif"), **common)
    if name in (ADD_LAYER_NORM, ADD_RMS_NORM):
        tensors = {"x": normal(count, dim), "y": normal(count, dim).to(kind), "weight": normal(dim)}
        return LayerCase(name, tensors, {"eps": 1e-3}, ("normal", "x_next"), 32 * dim + 100, ("y",), batch=batch)
    if name in (GEGLU, SWIGLU):
        tensors = {"x": (normal(count, 2 * pick(1, 5, 33, 1030)) * pick(1, 10)).to(kind)}
        return LayerCase(name, tensors, {}, ("y",), 16, ("x", "y"), batch=batch)
    if name == SOFT_CAP:
        tensors = {"x": (normal(batch, sequence, pick(1, 33, 1030)) * 30).to(kind)}
        return LayerCase(name, tensors, {"cap": pick(0.5, 30.0)}, ("y",), 16, ("x",), batch=batch)
    tensors = {"h": normal(batch, sequence, heads, dim).to(kind), "weight": normal(heads, dim)}
    if name != HEAD_NORM:
        tensors["gate"] = normal(count, heads * dim * pick(1, 2)) * pick(1, 30)
    if name == SKIP_GATED_HEAD_NORM:
        tensors |= {"skip": normal(heads * dim), "x": normal(count, heads * dim)}
    # A head of few or nearly equal values: its deviation, which all is divided by, is rounded relative to the values.
    return LayerCase(name, tensors, {"eps": 1e-3}, ("y",), 32 * dim + 100, ("h",), batch=batch)
