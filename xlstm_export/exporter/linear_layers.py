"""Linear layers of a traced graph as operators of ours."""

from __future__ import annotations

import onnx_ir as ir

from ..operators.names import DOMAIN, LINEAR, LINEAR_WITH_BIAS
from ..operators.products import linear_function

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


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
    if node.op_type != "Gemm" or node.domain:
        return False
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    _, weight, bias = (*node.inputs, None)[:3]
    if {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | given != plain or not _is_weight(graph, weight, 2):
        return False
    assert weight is not None and weight.shape is not None
    if bias is None:
        return True
    return _is_weight(graph, bias, 1) and bias.shape is not None and bias.shape[0] == weight.shape[0]


def _is_weight(graph: ir.Graph, value: ir.Value | None, rank: int) -> bool:
    if value is None or value.name not in graph.initializers or value.is_graph_input():
        return False
    return value.dtype in _FLOATS and value.shape is not None and len(value.shape) == rank
