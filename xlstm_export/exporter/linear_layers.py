"""Linear layers of a traced graph as operators of ours: one for all that multiply the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ..checkpoints.files.tensors import LazyTensor
from ..operators.names import DOMAIN, LINEAR, LINEAR_WITH_BIAS, LINEARS
from ..operators.products import FLOATS, joined_name, linear_function, takes_transposed

_NARROW = 32
"""Layers with fewer outputs are gates, which quantisation leaves alone: they are joined among themselves."""


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


def join_linear_layers(graph: ir.Graph, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Make one linear layer of those that multiply the same rows (q, k and v, say), and split what it gives.

    A small model's step takes as long as its nodes, and each product wakes all threads.

    Args:
        graph: its initializers, named as `tensors`, have no bytes yet.
        tensors: the weights. Layers whose weights are integers stay by themselves.

    Returns:
        The weights that the graph has now, where those of joined layers lie one under the other.
    """
    tensors = dict(tensors)
    together: dict[tuple[object, ...], list[ir.Node]] = {}
    for node in graph:
        if node.domain == DOMAIN and node.op_type in LINEARS and all(_is_own(v, tensors) for v in node.inputs[1:]):
            x, weight = node.inputs[:2]
            assert weight is not None
            key = (id(x), node.op_type, weight.dtype, tensors[str(weight.name)].dtype, _outputs(node) < _NARROW)
            together.setdefault(key, []).append(node)
    for nodes in together.values():
        if len(nodes) > 1:
            _join(graph, nodes, tensors)
    return tensors


def _join(graph: ir.Graph, nodes: Sequence[ir.Node], tensors: dict[str, LazyTensor]) -> None:
    first = nodes[0]
    joined = [
        _join_weights(graph, [node.inputs[index] for node in nodes], tensors) for index in range(1, len(first.inputs))
    ]
    base = str(joined[0].name).rpartition(".")[0]
    layer = ir.node(first.op_type, [first.inputs[0], *joined], domain=DOMAIN, name=f"{base}/{first.op_type}")
    (rows,) = layer.outputs
    rows.name, rows.type = layer.name, first.outputs[0].type
    sizes = _constant(graph, [_outputs(node) for node in nodes])
    split = ir.node("Split", [rows, sizes], {"axis": -1}, num_outputs=len(nodes), name=f"{base}/Split")
    ir.convenience.replace_nodes_and_values(
        graph, first, nodes, [layer, split], [node.outputs[0] for node in nodes], split.outputs
    )


def _join_weights(graph: ir.Graph, values: Sequence[ir.Value | None], tensors: dict[str, LazyTensor]) -> ir.Value:
    names = [str(value.name) for value in values if value is not None]
    parts = [tensors.pop(name) for name in names]
    for name in names:
        del graph.initializers[name]
    stacked = LazyTensor.stacked(parts)
    assert values[0] is not None
    joined = ir.Value(name=joined_name(names), shape=ir.Shape(stacked.shape), type=values[0].type)
    tensors[str(joined.name)] = stacked
    graph.initializers[str(joined.name)] = joined
    return joined


def _constant(graph: ir.Graph, integers: Sequence[int]) -> ir.Value:
    name = f"constants.{sum(name.startswith('constants.') for name in graph.initializers)}"
    tensor = ir.tensor(integers, name=name)
    value = ir.Value(name=name, shape=ir.Shape([len(integers)]), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _outputs(node: ir.Node) -> int:
    weight = node.inputs[1]
    assert weight is not None and weight.shape is not None
    return weight.shape.numpy()[0]


def _is_own(value: ir.Value | None, tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether this is a weight of one node alone, in floats."""
    return (
        value is not None
        and value.name in tensors
        and tensors[str(value.name)].codes is None
        and len(tuple(value.uses())) == 1
    )


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
