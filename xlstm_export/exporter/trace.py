"""Model → ONNX graph without weights: traced on fake tensors, cells as `ai.xlstm` nodes."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ..bundle.manifest import LOGITS
from ..modeling.architecture import Architecture
from ..modeling.layers import Dtypes
from ..modeling.model import Model
from .onnx_graph import make_graph


def output_name(architecture: Architecture) -> str:
    """Of the graph's first output: tokens can be drawn from what is called logits, and from nothing else."""
    if architecture.gives_logits:
        return LOGITS
    if architecture.patches:
        return "quantiles"
    return "outputs" if architecture.vocab_size is None else "hidden"


def input_name(architecture: Architecture) -> str:
    """Of the graph's first input."""
    if architecture.patches:
        return "patches"
    return "inputs" if architecture.vocab_size is None else "tokens"


def trace_model(
    architecture: Architecture, dtype: torch.dtype, batch: int | None, sequence: bool, all_positions: bool = False
) -> tuple[ir.Model, Model]:
    """Trace one pass of the model.

    Args:
        architecture: what to build.
        dtype: of the projection matrices; all else is float32.
        batch: a fixed batch size, or None for a dynamic one (dimension `batch`).
        sequence: any number of positions (dimension `sequence`) with an input `lengths`; else one step without.
        all_positions: outputs at every position, not at each row's last one only.

    Returns:
        The graph, whose initializers have names, shapes and dtypes but no bytes, and the fake model it came from
        (for the names and shapes of parameters and states).
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = Model(architecture, Dtypes(weights=dtype), all_positions).eval()
        example = (batch or 2, 3 if sequence else 1)
        names = (input_name(architecture), output_name(architecture))
        if architecture.vocab_size is None:
            inputs = torch.zeros(*example, architecture.input_width)
        else:
            inputs = torch.zeros(example, dtype=torch.int64)
        lengths = {"lengths": torch.ones(example[0], dtype=torch.int32)} if sequence else {}
        states = model.initial_states(example[0])
        rows = {0: torch.export.Dim("batch", min=1)} if batch is None else {}
        positions = {1: torch.export.Dim("sequence", min=1)} if sequence else {}
        graph = make_graph(
            model,
            (inputs, *states),
            lengths,
            {"inputs": rows | positions, "states": (rows,) * len(states), **dict.fromkeys(lengths, rows)},
            [names[0], *(s.name for s in model.states), *lengths],
            [names[1], *(s.next_name for s in model.states)],
        )
    if architecture.tied_head:  # one parameter, which the tracer calls by its last name
        graph.graph.initializers["head.weight"].name = "embedding.weight"
    return graph, model
