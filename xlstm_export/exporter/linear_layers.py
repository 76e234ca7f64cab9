"""Linear layers of a traced graph as operators of ours."""

from __future__ import annotations

import onnx_ir as ir

from ..operators.names import DOMAIN, LINEAR, LINEAR_WITH_BIAS
from ..operators.products import FLOATS, linear_function, takes_transposed


def mark_linear_layers(model: ir.Model) -> None:
    """Make every `Gemm` that multiplies rows with weights (N, K) such an operator, and give the model its definition.

    The model imports the domain already.
    """
    graph, names = model.graph, set()
    for node in list(graph):
        if _is_linear(graph, node):
            given = [value for value in node.inputs if value is not None]
            name = LINEAR if len(given) == 2 else LINEAR_WITH_BIAS
            operator = ir.node(name, given, domain=DOMAIN, name=node.name)
            operator.metadata_props.update(node.metadata_props)
            (old,), (new,) = node.outputs, operator.outputs
            ir.convenience.replace_nodes_and_values(graph, node, [node], [operator], [old], [new])
            names.add(name)
    for name in sorted(names):
        model.functions[(DOMAIN, name, "")] = ir.serde.deserialize_function(linear_function(name))


def _is_linear(graph: ir.Graph, node: ir.Node) -> bool:
    if node.op_type != "Gemm" or takes_transposed(node) is not False:
        return False
    _, weight, bias = (*node.inputs, None)[:3]
    shape = _weight_shape(graph, weight)
    return len(shape) == 2 and (bias is None or _weight_shape(graph, bias) == shape[:1])


def _weight_shape(graph: ir.Graph, value: ir.Value | None) -> tuple[int, ...]:
    """Empty for what is no weight: it comes from outside, is computed, or is of another type."""
    if value is None or value.name not in graph.initializers or value.is_graph_input():
        return ()
    return value.shape.numpy() if value.dtype in FLOATS and value.shape is not None else ()
