"""bfloat16 graphs on ONNX Runtime's CPU provider, which has no bfloat16 arithmetic.

A bundle in bfloat16 keeps its matrix products in bfloat16, because TensorRT would fold a cast of the weights into
float32 weights twice the size. On the CPU those products run in float32 between casts: inputs and outputs are
rounded to bfloat16 exactly where the graph says, so only the accumulation is wider.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

_ARITHMETIC = {"Gemm", "MatMul", "Add", "Mul", "DequantizeLinear"}


def widen_bfloat16(path: Path) -> bytes:
    """The model at `path`, serialised, with float32 arithmetic between casts wherever it was bfloat16."""
    model = ir.load(path)
    for node in list(model.graph):
        if node.op_type not in _ARITHMETIC or node.outputs[0].dtype != ir.DataType.BFLOAT16:
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == ir.DataType.BFLOAT16:
                cast = _cast(value, ir.DataType.FLOAT, f"{node.name}/widen_{index}")
                model.graph.insert_before(node, cast)
                node.replace_input_with(index, cast.outputs[0])
        result = node.outputs[0]
        if node.op_type == "DequantizeLinear":  # what multiplies with it is widened too, and only so are the two fused
            result.dtype = ir.DataType.FLOAT
            continue
        narrow = _cast(result, ir.DataType.BFLOAT16, f"{node.name}/narrow")
        ir.convenience.replace_all_uses_with(result, narrow.outputs[0])
        narrow.replace_input_with(0, result)
        result.dtype = ir.DataType.FLOAT
        model.graph.insert_after(node, narrow)
    return ir.to_proto(model).SerializeToString()


def _cast(value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(to)}, name=name)
    node.outputs[0].name, node.outputs[0].dtype, node.outputs[0].shape = name, to, value.shape
    return node
