"""Linear layers of a traced graph as operators of ours: one for all that multiply the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ..checkpoints.files.tensors import LazyTensor
from ..operators.constants import add_integers
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
    """Make one linear layer of those that multiply the same rows (q, k and v, say), and split what it gives, unless the
    graph puts just that side by side.

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
            key = (
                id(x),
                node.op_type,
                weight.dtype,
                tensors[str(weight.name)].dtype,
                _weight_shape(graph, weight)[0] < _NARROW,
                id(_side_by_side(node)),
            )
            together.setdefault(key, []).append(node)
    for nodes in together.values():
        if len(nodes) > 1:
            _join(graph, nodes, tensors)
    return tensors


def _join(graph: ir.Graph, nodes: Sequence[ir.Node], tensors: dict[str, LazyTensor]) -> None:
    concat = _side_by_side(nodes[0])
    if concat is not None:
        nodes = sorted(nodes, key=lambda node: concat.inputs.index(node.outputs[0]))
    first, sizes = nodes[0], [_weight_shape(graph, node.inputs[1])[0] for node in nodes]
    kinds = zip(*(node.inputs[1:] for node in nodes), strict=True)
    joined = [_join_weights(graph, [value for value in values if value is not None], tensors) for values in kinds]
    base = str(joined[0].name).rpartition(".")[0]
    layer = ir.node(first.op_type, [first.inputs[0], *joined], domain=DOMAIN, name=f"{base}/{first.op_type}")
    (rows,) = layer.outputs
    rows.name, rows.type = layer.name, first.outputs[0].type
    if concat is not None and list(concat.inputs) == [node.outputs[0] for node in nodes]:
        ir.convenience.replace_nodes_and_values(graph, concat, [*nodes, concat], [layer], concat.outputs, [rows])
        return
    constants = sum(name.startswith("constants.") for name in graph.initializers)
    parts = add_integers(graph, f"constants.{constants}", sizes)
    split = ir.node("Split", [rows, parts], {"axis": -1}, num_outputs=len(nodes), name=f"{base}/Split")
    ir.convenience.replace_nodes_and_values(
        graph, first, nodes, [layer, split], [node.outputs[0] for node in nodes], split.outputs
    )


def _side_by_side(node: ir.Node) -> ir.Node | None:
    """What alone reads the layer's rows, and puts them beside others."""
    readers = [use.node for use in node.outputs[0].uses()]
    if len(readers) != 1 or node.outputs[0].is_graph_output():
        return None
    is_concat = readers[0].op_type == "Concat" and not readers[0].domain
    return readers[0] if is_concat and readers[0].attributes.get_int("axis") in (-1, 1) else None


def _join_weights(graph: ir.Graph, values: Sequence[ir.Value], tensors: dict[str, LazyTensor]) -> ir.Value:
    names = [str(value.name) for value in values]
    for name in names:
        del graph.initializers[name]
    name, stacked = joined_name(names), LazyTensor.stacked([tensors.pop(name) for name in names])
    tensors[name] = stacked
    graph.initializers[name] = ir.Value(name=name, shape=ir.Shape(stacked.shape), type=values[0].type)
    return graph.initializers[name]


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
