"""bfloat16 graphs on ONNX Runtime's CPU provider, which has no bfloat16 arithmetic.

A bundle in bfloat16 keeps its matrix products in bfloat16, because TensorRT would fold a cast of the weights into
float32 weights twice the size. On the CPU those products run in float32 between casts: inputs and outputs are
rounded to bfloat16 exactly where the graph says, so only the accumulation is wider. Our CPU kernels do the same with
linear layers and an sLSTM's gates as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..bundle.graph_file import BFLOAT16, FLOAT, INT_ATTRIBUTE, NodeProto, read_graph
from ..operators.names import LINEARS, QUANTIZED_MATMUL, SLSTM_PROJECTIONS

_ARITHMETIC = {"Gemm", "MatMul", "Add", "Mul", "DequantizeLinear", QUANTIZED_MATMUL}


def widen_bfloat16(path: Path, kernels: bool) -> bytes:
    """The model at `path`, serialised, with float32 arithmetic between casts wherever it was bfloat16.

    `kernels`: whether our library runs what it has a kernel for.
    """
    arithmetic = _ARITHMETIC if kernels else {*_ARITHMETIC, *LINEARS, SLSTM_PROJECTIONS}
    model = read_graph(path)
    graph = model.graph
    types = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output, *graph.value_info)}
    dtypes = {name: tensor.elem_type for name, tensor in types.items()}
    dtypes |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        result = node.output[0]
        if node.op_type not in arithmetic or dtypes.get(result) != BFLOAT16:
            nodes.append(node)
            continue
        nodes += _widen_inputs(node, dtypes, 1 if node.op_type == QUANTIZED_MATMUL else len(node.input))
        for attribute in node.attribute:
            if node.op_type == QUANTIZED_MATMUL and attribute.name == "to":  # the type that it has its scales cast to
                attribute.i = FLOAT
        nodes.append(node)
        if node.op_type == "DequantizeLinear":  # what multiplies with it is widened too, and only so are the two fused
            types[result].elem_type = dtypes[result] = FLOAT
            continue
        node.output[0] = f"{node.name}/wide"
        nodes.append(_cast(node.output[0], BFLOAT16, result, f"{node.name}/narrow"))
    del graph.node[:]
    graph.node.extend(nodes)
    return model.SerializeToString()


def _widen_inputs(node: Any, dtypes: dict[str, int], count: int) -> Iterator[Any]:
    """The casts that the first `count` of a node's inputs go through from now on, where they are bfloat16."""
    for index, name in enumerate(node.input[:count]):
        if dtypes.get(name) == BFLOAT16:
            node.input[index] = f"{node.name}/widen_{index}"
            yield _cast(name, FLOAT, node.input[index], node.input[index])


def _cast(value: str, to: int, result: str, name: str) -> Any:
    node = NodeProto(op_type="Cast", name=name, input=[value], output=[result])
    node.attribute.add(name="to", type=INT_ATTRIBUTE, i=to)
    return node
