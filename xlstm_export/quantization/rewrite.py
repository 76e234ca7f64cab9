"""The graph around a quantised weight: products with codes, and lookups of codes in place of `Gather`."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..operators.constants import add_integers
from ..operators.lookups import lookup_function, lookup_name
from ..operators.names import ADD_LAYER_NORM, ADD_RMS_NORM, DOMAIN, LINEARS, QUANTIZED_MATMUL
from ..operators.products import has_product, product_function
from .sites import Site


@dataclass(frozen=True)
class WrittenWeight:
    """A quantised weight's new initializers.

    Attributes:
        codes: (K, N); (N, K) of a weight that is in no product.
        looked_up: the codes as lookups read them: four-bit ones as bytes of two. Often the same initializer.
        scales: (blocks, N), or (N, blocks), in the bundle's dtype or another one.
        zeros: (blocks, N) like `codes`: zero points of a weight that is in products only; None: all are zero.
    """

    codes: ir.Value
    looked_up: ir.Value
    scales: ir.Value
    zeros: ir.Value | None = None

    @property
    def nbytes(self) -> int:
        return sum(value.const_value.nbytes for value in (self.codes, self.scales) if value.const_value is not None)


def put_in(graph: ir.Graph, site: Site, weight: WrittenWeight, bits: int, block_size: int) -> set[str]:
    """Put a quantised weight in the place of a float one, whose initializer is removed.

    Returns:
        The operators of `ai.xlstm` that the graph needs for it.
    """
    values = (weight.codes, weight.looked_up, weight.scales, weight.zeros)
    used = {id(value): value for value in values if value is not None}
    for value in used.values():
        graph.register_initializer(value)
    operators = set()
    if site.products and weight.zeros is None and has_product(weight.codes.dtype, block_size):
        operators.add(QUANTIZED_MATMUL)
        for node in site.products:
            _multiply(graph, site, node, weight, block_size)
    elif site.products:
        matrix = _dequantised(graph, site, weight, block_size)
        for node in site.products:
            _finish(graph, node, _insert_product(graph, node, "MatMul", [matrix]))
    name = lookup_name(bits, rows=not site.products)
    for node in site.lookups:
        operators.add(name)
        _look_up(graph, site, node, name, weight, block_size)
    assert site.value.name is not None
    graph.initializers.pop(site.value.name)
    return operators


def define(model: ir.Model, names: set[str]) -> None:
    """Give the model the definitions of these operators, and take away those of linear layers that it has no more."""
    for name in sorted(names):
        function = product_function() if name == QUANTIZED_MATMUL else lookup_function(name)
        model.functions[(DOMAIN, name, "")] = ir.serde.deserialize_function(function)
    left = {node.op_type for node in model.graph if node.domain == DOMAIN}
    for name in {*LINEARS} - left:
        model.functions.pop((DOMAIN, name, ""), None)


def _dequantised(graph: ir.Graph, site: Site, weight: WrittenWeight, block_size: int) -> ir.Value:
    """The weight as a product takes it, (K, N) in the bundle's dtype."""
    first, dtype, scales = site.products[0], site.dtype, weight.scales
    name = first.name
    if scales.dtype != dtype:
        scales = _insert(graph, first, "Cast", [scales], f"{name}/scales", dtype, scales.shape, to=int(dtype))
    shape = ir.Shape((site.inputs, site.outputs))
    return _insert(
        graph,
        first,
        "DequantizeLinear",
        [weight.codes, scales] if weight.zeros is None else [weight.codes, scales, weight.zeros],
        f"{name}/DequantizeLinear",
        dtype,
        shape,
        axis=0,
        block_size=block_size,
    )


def _multiply(graph: ir.Graph, site: Site, node: ir.Node, weight: WrittenWeight, block_size: int) -> None:
    """The operator that multiplies with codes, in place of the node."""
    attributes = {"block_size": block_size, "to": int(site.dtype)}
    operands = [weight.codes, weight.scales]
    _finish(graph, node, _insert_product(graph, node, QUANTIZED_MATMUL, operands, DOMAIN, **attributes))


def _insert_product(
    graph: ir.Graph, node: ir.Node, op_type: str, operands: list[ir.Value], domain: str = "", **attributes: int
) -> ir.Value:
    x, out = node.inputs[0], node.outputs[0]
    name = f"{node.name}/{op_type}"
    return _insert(graph, node, op_type, [x, *operands], name, out.dtype, out.shape, domain, **attributes)


def _finish(graph: ir.Graph, node: ir.Node, result: ir.Value) -> None:
    """Put a product, and the `Add` of a bias where there was one, in place of the node.

    Between the two, and before the addition of a residual, stands a `Reshape` that changes nothing: ONNX Runtime would
    make a `Gemm` of them before it fuses products with `DequantizeLinear`.
    """
    out, name = node.outputs[0], node.name
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    added = [use for use, _ in out.uses() if use.op_type in ("Add", ADD_LAYER_NORM, ADD_RMS_NORM)]
    if (bias is not None or added) and out.shape is not None:
        same = add_integers(graph, f"{name}/same", [0] * (len(out.shape) - 1) + [-1])
        result = _insert(graph, node, "Reshape", [result, same], f"{name}/Reshape", out.dtype, out.shape)
    if bias is not None:
        result = _insert(graph, node, "Add", [result, bias], f"{name}/Add", out.dtype, out.shape)
    _replace(graph, node, result)


def _look_up(graph: ir.Graph, site: Site, node: ir.Node, operator: str, weight: WrittenWeight, block_size: int) -> None:
    indices, out, name = node.inputs[1], node.outputs[0], node.name
    assert indices is not None and indices.shape is not None and out.dtype is not None
    flat, shape = indices, None
    if len(indices.shape) != 1:
        minus_one = add_integers(graph, f"{name}/flat", [-1])
        flat = _insert(graph, node, "Reshape", [indices, minus_one], f"{name}/indices", indices.dtype, None)
        extents = _insert(graph, node, "Shape", [indices], f"{name}/Shape", ir.DataType.INT64, None)
        width = add_integers(graph, f"{name}/width", [site.inputs])
        shape = _insert(graph, node, "Concat", [extents, width], f"{name}/Concat", ir.DataType.INT64, None, axis=0)
    result = _insert(
        graph,
        node,
        operator,
        [weight.looked_up, weight.scales, flat],
        f"{name}/{operator}",
        ir.DataType.FLOAT,
        None,
        DOMAIN,
        block_size=block_size,
    )
    if shape is not None:
        result = _insert(graph, node, "Reshape", [result, shape], f"{name}/Reshape_rows", ir.DataType.FLOAT, out.shape)
    if out.dtype != ir.DataType.FLOAT:
        result = _insert(graph, node, "Cast", [result], f"{name}/Cast_rows", out.dtype, out.shape, to=int(out.dtype))
    result.shape = out.shape
    _replace(graph, node, result)


def _insert(
    graph: ir.Graph,
    before: ir.Node,
    op_type: str,
    inputs: list[ir.Value | None],
    name: str,
    dtype: ir.DataType | None,
    shape: ir.Shape | None,
    domain: str = "",
    **attributes: int,
) -> ir.Value:
    """A node before another, with one output of its name."""
    node = ir.node(op_type, inputs, attributes, domain=domain, name=name)
    graph.insert_before(before, node)
    (out,) = node.outputs
    out.name, out.shape, out.type = name, shape, None if dtype is None else ir.TensorType(dtype)
    return out


def _replace(graph: ir.Graph, node: ir.Node, result: ir.Value) -> None:
    out = node.outputs[0]
    if out.is_graph_output():
        result.name = out.name
    ir.convenience.replace_all_uses_with(out, result, replace_graph_outputs=True)
    graph.remove(node, safe=True)
