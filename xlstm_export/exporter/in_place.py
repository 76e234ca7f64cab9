"""Which states a kernel may update in place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import onnx_ir as ir

from ..bundle import StateTensor
from ..operators.names import DOMAIN


def mark_in_place(graph: ir.Graph, states: Iterable[StateTensor]) -> tuple[StateTensor, ...]:
    """The states with `in_place` as the graph allows it: where one operator of ours reads it and writes its next value.

    Our CPU kernels read a state before they write it. Any other reader could come after them, but for one that asks for
    the shape alone.

    Args:
        graph: has the states among its inputs and outputs.
        states: to be marked.
    """
    inputs = {value.name: value for value in graph.inputs}
    outputs = {value.name: value for value in graph.outputs}

    def only_ours(state: StateTensor) -> bool:
        before, after = inputs[state.input], outputs[state.output]
        readers = [use.node for use in before.uses() if use.node.op_type != "Shape"]
        return len(readers) == 1 and readers[0].domain == DOMAIN and after.producer() is readers[0]

    return tuple(replace(state, in_place=only_ours(state)) for state in states)
