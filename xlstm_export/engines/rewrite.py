"""Changes to the graph that one engine builder or another needs. The bundle itself is never touched.

All return a copy: external weights are referred to, not held, so a model's graph is small.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx.inliner
from onnx import helper

from ..operators.names import CELLS, DOMAIN, INT4_ROWS, INT8_ROWS, LINEARS, LOOKUPS, QUANTIZED_MATMUL, SLSTM_PROJECTIONS
from .targets import parse_version

PLUGIN_FIRST = (10, 15)
"""The first TensorRT whose parser prefers a plugin over a local function, for a node with `plugin_namespace`."""


def plugin_needs_stripping(version: str) -> bool:
    """Whether this TensorRT's parser would run the definition although the plugin is registered."""
    return parse_version(version)[:2] < PLUGIN_FIRST


def without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the cells' definitions: only a plugin can run them. What stands around the cells keeps its own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [function for function in copy.functions if function.domain != DOMAIN or function.name not in CELLS]
    del copy.functions[:]
    copy.functions.extend(kept)
    return copy


def with_plain_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose linear layers are `Gemm` nodes, and whose quantised weights are each behind a `DequantizeLinear` of
    the graph itself, those whose rows are gathered too.

    TensorRT allows quantised constants nowhere else, and knows no bytes; it reads the same bytes as four-bit integers.
    """
    copy = onnx.inliner.inline_selected_functions(model, [(DOMAIN, name) for name in (*LINEARS, QUANTIZED_MATMUL)])
    weights = {tensor.name: tensor for tensor in copy.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        lookup = node.domain == DOMAIN and node.op_type in LOOKUPS
        nodes += _plain_lookup(node, weights[node.input[0]]) if lookup else [node]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    kept = [f for f in copy.functions if f.domain != DOMAIN or f.name not in LOOKUPS]
    del copy.functions[:]
    copy.functions.extend(kept)
    return copy


def _plain_lookup(node: onnx.NodeProto, codes: onnx.TensorProto) -> list[onnx.NodeProto]:
    if codes.data_type == onnx.TensorProto.UINT8:  # two four-bit codes a byte
        codes.data_type = onnx.TensorProto.INT4
        codes.dims[1] *= 2
    by_rows = node.op_type in (INT4_ROWS, INT8_ROWS)
    (_, scales, indices), out = node.input, node.output[0]
    scale, weights, found = f"{out}__scale", f"{out}__weights", out if by_rows else f"{out}__columns"
    (block_size,) = (a.i for a in node.attribute if a.name == "block_size")
    axes = {"axis": 1 if by_rows else 0, "block_size": block_size}
    nodes = [
        helper.make_node("Cast", [scales], [scale], to=onnx.TensorProto.FLOAT),
        helper.make_node("DequantizeLinear", [codes.name, scale], [weights], **axes),
        helper.make_node("Gather", [weights, indices], [found], axis=0 if by_rows else 1),
    ]
    return nodes if by_rows else [*nodes, helper.make_node("Transpose", [found], [out], perm=[1, 0])]


def with_products_as_sums(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without `MatMul` in float32: A B becomes sum_k A[.., :, k] B[.., k, :], with the same shapes.

    TensorRT-RTX has no float32 matrix product for Turing, and the cells compute in float32. In a step their products
    are of a matrix and one vector a sequence, so that before the sum there are as many products as multiplications
    anyway; over the positions of a chunk there are more, so chunks are small there.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    types = {value.name: value.type.tensor_type.elem_type for value in copy.graph.value_info}
    gates = [node.output[0] for node in copy.graph.node if (node.domain, node.op_type) == (DOMAIN, SLSTM_PROJECTIONS)]
    in_16_bits = any(types[name] != onnx.TensorProto.FLOAT for name in gates)
    for function in copy.functions:
        if function.domain == DOMAIN and not (function.name == SLSTM_PROJECTIONS and in_16_bits):
            _rewrite(function, lambda _: True)
    _rewrite(copy.graph, lambda node: types[node.output[0]] == onnx.TensorProto.FLOAT)
    return copy


def _rewrite(holder: onnx.FunctionProto | onnx.GraphProto, wanted: Callable[[onnx.NodeProto], bool]) -> None:
    nodes: list[onnx.NodeProto] = []
    for node in holder.node:
        product = node.op_type == "MatMul" and not node.domain and wanted(node)
        nodes += _sum_of_products(node) if product else [node]
    del holder.node[:]
    holder.node.extend(nodes)
    for node in holder.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:  # the loop of an sLSTM
                _rewrite(attribute.g, wanted)


def _sum_of_products(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A (.., M, K), B (.., K, N): A as (.., M, K, 1) times B as (.., 1, K, N), summed over K."""
    (left, right), out = node.input, node.output[0]
    name = {part: f"{out}__{part}" for part in ("last", "rows", "sum_axis", "left", "right", "products")}
    return [
        helper.make_node("Constant", [], [name["last"]], value_ints=[-1]),
        helper.make_node("Constant", [], [name["rows"]], value_ints=[-3]),
        helper.make_node("Constant", [], [name["sum_axis"]], value_ints=[-2]),
        helper.make_node("Unsqueeze", [left, name["last"]], [name["left"]]),
        helper.make_node("Unsqueeze", [right, name["rows"]], [name["right"]]),
        helper.make_node("Mul", [name["left"], name["right"]], [name["products"]]),
        helper.make_node("ReduceSum", [name["products"], name["sum_axis"]], [out], keepdims=0),
    ]
