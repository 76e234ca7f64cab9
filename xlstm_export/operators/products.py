"""Products with a quantised matrix: x (.., K), codes (K, N) and scales (blocks, N) give y (.., N).

The definition is what ONNX Runtime fuses into its own product with codes (`MatMulNBits`), and TensorRT into its. Where
the inputs of products may be rounded to 8 bits, our CPU kernel (`plugins/cells/cpu/quantized_product.h`) runs the node.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from .names import DOMAIN, OPSET, QUANTIZED_MATMUL

_DEFINITION = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
{QUANTIZED_MATMUL} <block_size, to> (x, codes, scales) => (y)
{{
    scale = Cast <to: int = @to> (scales)
    weight = DequantizeLinear <axis: int = 0, block_size: int = @block_size> (codes, scale)
    y = MatMul (x, weight)
}}
"""


def product_function() -> onnx.FunctionProto:
    """The definition. `to` is the type of x and y, as ONNX numbers it."""
    return onnx.parser.parse_function(_DEFINITION)


def has_product(codes: ir.DataType | None, block_size: int) -> bool:
    """Whether the operator is for such codes: signed integers, in blocks that a kernel cuts into eights."""
    return codes in (ir.DataType.INT4, ir.DataType.INT8) and block_size % 8 == 0
