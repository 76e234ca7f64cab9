"""What stands around the cells: random inputs, what the eager operators make of them in float64, and bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xlstm_export.operators.eager_layers import (
    causal_conv,
    gated_head_norm,
    mlstm_projections,
    skip_gated_head_norm,
)
from xlstm_export.operators.names import CAUSAL_CONV, GATED_HEAD_NORM, MLSTM_PROJECTIONS, SKIP_GATED_HEAD_NORM

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
        given = () if self.name in (GATED_HEAD_NORM, SKIP_GATED_HEAD_NORM) else (self.lengths,)
        keywords = {"lengths": given[0]} if given else {}
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
    CAUSAL_CONV: causal_conv,
    MLSTM_PROJECTIONS: mlstm_projections,
    GATED_HEAD_NORM: gated_head_norm,
    SKIP_GATED_HEAD_NORM: skip_gated_head_norm,
}


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
        tensors = {"x": normal(count, dim), "window": normal(batch, kernel - 1, dim)}
        tensors |= {"weight": normal(kernel, dim), "bias": normal(dim)}
        return LayerCase(name, tensors, {}, ("y", "window_next"), kernel + 4, **common)
    kind, heads = DTYPES[dtype], pick(1, 2, 4)
    if name == MLSTM_PROJECTIONS:
        width, groups = pick(1, 2, 4, 4, 8, 16), heads * pick(1, 2, 3, 5, 24)
        inner = groups * width
        together = pick(*(n for n in (1, 2, 4) if groups % n == 0))
        tensors = {"x_conv": normal(count, inner), "x": normal(count, inner)}
        tensors |= {f"{one}_weight": normal(groups, width, width) * width**-0.5 for one in "qkv"}
        for gate in "if":
            tensors[f"{gate}_weight"] = (normal(heads, 3 * inner) * inner**-0.5).to(kind)
            tensors[f"{gate}_bias"] = normal(heads).to(kind)
        return LayerCase(name, tensors, {"together": together}, tuple("qkvif"), 3 * inner + 4, **common)
    dim = pick(1, 3, 16, 40, 97)
    tensors = {"h": normal(batch, sequence, heads, dim).to(kind), "weight": normal(heads, dim)}
    tensors["gate"] = normal(count, heads * dim) * pick(1, 30)
    if name == SKIP_GATED_HEAD_NORM:
        tensors |= {"skip": normal(heads * dim), "x": normal(count, heads * dim)}
    # A head of few or nearly equal values: its deviation, which all is divided by, is rounded relative to the values.
    return LayerCase(name, tensors, {"eps": 1e-3}, ("y",), 32 * dim + 100, batch=batch)
