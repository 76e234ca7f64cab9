"""Integers that nodes of a graph read: shapes, and sizes of parts."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


def add_integers(graph: ir.Graph, name: str, values: Sequence[int]) -> ir.Value:
    """A new initializer of the graph, int64, of one axis."""
    value = ir.val(name, const_value=ir.tensor(values, ir.DataType.INT64, name=name))
    graph.register_initializer(value)
    return value
