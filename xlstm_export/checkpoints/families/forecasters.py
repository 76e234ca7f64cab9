"""What the two forecasters store alike: TiRex (`tirex.py`) and TiRex-2 (`tirex2.py`).

In both, the sLSTM layer feeds its `fgate` projection to the input gate and its `igate` projection to the forget gate
(`tirex/models/slstm/layer.py`, `tirex2/model/component/flashrnn_slstm.py`), and recurrent kernels have their inputs
before their gates and outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from ..files.settings import Settings
from ..files.tensors import LazyTensor
from ..files.weights import Shapes

FFN_FACTOR, FFN_MULTIPLE = 2.6667, 64
"""Of the gated feed-forward networks, and what upstream rounds their width up to."""
ENDS = {"patch_in": "input_patch_embedding", "patch_out": "output_patch_embedding"}
"""The two residual networks: our name, and upstream's."""


def ffn_width(dim: int, factor: float = FFN_FACTOR, multiple: float = FFN_MULTIPLE) -> int:
    """Upstream's own rounding (`round_up_to_next_multiple_of`)."""
    return int((dim * factor + multiple - 1) // multiple * multiple)


def quantile_levels(settings: Settings) -> tuple[float, ...]:
    """The setting `quantiles`."""
    levels = settings.values.get("quantiles")
    numbers = [q for q in levels if isinstance(q, int | float)] if isinstance(levels, list | tuple) else []
    if not numbers or numbers != levels or not all(0 < a < b for a, b in itertools.pairwise([*numbers, 1.0])):
        raise settings.error("quantiles", "expected numbers between 0 and 1 that rise")
    return tuple(map(float, numbers))


def end_shapes(end: str, into: int, hidden: int, out: int) -> Shapes:
    """Of one of `ENDS`, by upstream's names."""
    shapes: Shapes = {}
    for layer, columns, rows in (
        ("hidden_layer", into, hidden),
        ("output_layer", hidden, out),
        ("residual_layer", into, out),
    ):
        shapes |= {f"{ENDS[end]}.{layer}.weight": [(rows, columns)], f"{ENDS[end]}.{layer}.bias": [(rows,)]}
    return shapes


def canonical_ends(upstream: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    return {
        f"{ours}.{layer}.{kind}": upstream[f"{theirs}.{layer}_layer.{kind}"]
        for ours, theirs in ENDS.items()
        for layer, kind in itertools.product(("hidden", "output", "residual"), ("weight", "bias"))
    }


def canonical_cell(
    upstream: Mapping[str, LazyTensor], layer: str, kernel: str, bias: str, cell: str, heads: int, width: int
) -> dict[str, LazyTensor]:
    """Gates, recurrent kernel and bias of one sLSTM layer, under the names that start with `cell`.

    Args:
        layer: what the names of the four gates' projections start with, upstream.
        kernel, bias: upstream's names: (H, in, 4, out) and (H, 4, out), whatever of these axes are one.
        heads, width: of the layer, and of each head.
    """
    fed = {"igate": "fgate", "fgate": "igate", "zgate": "zgate", "ogate": "ogate"}
    return {
        **{f"{cell}{ours}.weight": upstream[f"{layer}{theirs}.weight"] for ours, theirs in fed.items()},
        **{f"{cell}{name}": t for name, t in recurrent_tensors(upstream[kernel], upstream[bias], heads, width).items()},
    }


def recurrent_tensors(kernel: LazyTensor, bias: LazyTensor, heads: int, width: int) -> dict[str, LazyTensor]:
    """R (H, 4, out, in) and b (gate, head, unit) from (H, in, 4, out) and (H, 4, out)."""
    return {
        "R": kernel.map(lambda R: R.reshape(heads, width, 4, width).permute(0, 2, 3, 1).contiguous()),
        "b": bias.map(lambda b: b.reshape(heads, 4, width).transpose(0, 1).contiguous()),
    }
