"""Which states a kernel may update in place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import onnx_ir as ir

from ..bundle import StateTensor
from ..operators.names import DOMAIN


def mark_in_place(graph: ir.Graph, states: Iterable[StateTensor]) -> tuple[StateTensor, ...]:
    """The states with `in_place` as the graph allows it: where one cell reads the state, and writes its next value.

    Our CPU kernels read a state before they write it. Any other reader could come after them.

    Args:
        graph: has the states among its inputs and outputs.
        states: to be marked.
    """
    inputs = {value.name: value for value in graph.inputs}
    outputs = {value.name: value for value in graph.outputs}

    def only_a_cells(state: StateTensor) -> bool:
        before, after = inputs[state.input], outputs[state.output]
        uses = before.uses()
        reader = uses[0].node if len(uses) == 1 else None
        return reader is not None and reader.domain == DOMAIN and after.producer() is reader

    return tuple(replace(state, in_place=only_a_cells(state)) for state in states)
