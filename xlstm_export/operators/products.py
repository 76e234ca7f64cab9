"""Products with weights, as operators whose definitions are what other runtimes know best.

`Linear`: x (rows, K) and weight (N, K) give y (rows, N), all of one type; `LinearWithBias` has a bias (N) too. The
definition is a `Gemm`. (They are two, because TensorRT's parser refuses a definition that is called without all of its
inputs.) Our CPU kernel (`plugins/cells/cpu/linear.h`) reads float16 and bfloat16 weights as they are,
where ONNX Runtime widens them to float32 and then reads twice the bytes.

`QuantizedMatMul`: x (.., K), codes (K, N) and scales (blocks, N) give y (.., N). Its definition is what ONNX Runtime
fuses into its own product with codes (`MatMulNBits`), and TensorRT into its. Where the inputs of products may be
rounded to 8 bits, our CPU kernel runs the node (`plugins/cells/cpu/quantized_product.h`).
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from .names import DOMAIN, LINEAR, LINEAR_WITH_BIAS, OPSET, QUANTIZED_MATMUL

_LINEAR = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
{LINEAR} (x, weight) => (y)
{{
    y = Gemm <transB: int = 1> (x, weight)
}}
"""

_LINEAR_WITH_BIAS = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
{LINEAR_WITH_BIAS} (x, weight, bias) => (y)
{{
    y = Gemm <transB: int = 1> (x, weight, bias)
}}
"""

_QUANTIZED_MATMUL = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
{QUANTIZED_MATMUL} <block_size, to> (x, codes, scales) => (y)
{{
    scale = Cast <to: int = @to> (scales)
    weight = DequantizeLinear <axis: int = 0, block_size: int = @block_size> (codes, scale)
    y = MatMul (x, weight)
}}
"""


def linear_function(name: str) -> onnx.FunctionProto:
    """The definition of `Linear` or `LinearWithBias`."""
    return onnx.parser.parse_function({LINEAR: _LINEAR, LINEAR_WITH_BIAS: _LINEAR_WITH_BIAS}[name])


def product_function() -> onnx.FunctionProto:
    """The definition of `QuantizedMatMul`. `to` is the type of x and y, as ONNX numbers it."""
    return onnx.parser.parse_function(_QUANTIZED_MATMUL)


def has_product(codes: ir.DataType | None, block_size: int) -> bool:
    """Whether `QuantizedMatMul` is for such codes: signed integers, in blocks that a kernel cuts into eights."""
    return codes in (ir.DataType.INT4, ir.DataType.INT8) and block_size % 8 == 0
