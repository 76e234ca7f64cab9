"""Products with weights, as operators whose definitions are what other runtimes know best.

`Linear`: x (rows, K) and weight (N, K) give y (rows, N), all of one type; `LinearWithBias` has a bias (N) too. The
definition is a `Gemm`. (They are two, because TensorRT's parser refuses a definition that is called without all of its
inputs.) Our CPU kernel (`plugins/cells/cpu/linear.h`) reads float16 and bfloat16 weights as they are,
where ONNX Runtime widens them to float32 and then reads twice the bytes.

`QuantizedMatMul`: x (.., K), codes (K, N) and scales (blocks, N) give y (.., N). Its definition is what ONNX Runtime
fuses into its own product with codes (`MatMulNBits`), and TensorRT into its. Where the inputs of products may be
rounded, our CPU kernel runs the node (`plugins/cells/cpu/quantized_product.h`).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from .names import DOMAIN, LINEAR, LINEAR_WITH_BIAS, LINEARS, OPSET, QUANTIZED_MATMUL

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
"""What weights may be."""
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
    inputs = {LINEAR: "x, weight", LINEAR_WITH_BIAS: "x, weight, bias"}[name]
    return onnx.parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]> '
        f"{name} ({inputs}) => (y) {{ y = Gemm <transB: int = 1> ({inputs}) }}"
    )


def product_function() -> onnx.FunctionProto:
    """The definition of `QuantizedMatMul`. `to` is the type of x and y, as ONNX numbers it."""
    return onnx.parser.parse_function(_QUANTIZED_MATMUL)


def takes_transposed(node: ir.Node) -> bool | None:
    """Whether the node multiplies with its second input as it lies there (True: it is Wᵀ) or turned round (False: it is
    W); None: it is no product."""
    if node.domain == DOMAIN and node.op_type in LINEARS:
        return False
    if node.domain:
        return None
    if node.op_type == "MatMul":
        return True
    if node.op_type == "Gemm" and all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta")):
        return None if node.attributes.get_int("transA", 0) else not node.attributes.get_int("transB", 0)
    return None


def has_product(codes: ir.DataType | None, block_size: int) -> bool:
    """Whether `QuantizedMatMul` is for such codes: signed integers, in blocks that a kernel cuts into eights."""
    return codes in (ir.DataType.INT4, ir.DataType.INT8) and block_size % 8 == 0


def joined_name(names: Sequence[str]) -> str:
    """The name of weights that lie one under the other: `blocks.0.mlstm.q+k+v.weight`."""
    modules, kinds = zip(*(name.rsplit(".", 1) for name in names), strict=True)
    scope, dot, _ = modules[0].rpartition(".")
    if any(module.rpartition(".")[0] != scope for module in modules):
        scope = dot = ""
    return f"{scope}{dot}{'+'.join(module[len(scope + dot) :] for module in modules)}.{kinds[0]}"


def names_within(name: str) -> tuple[str, ...]:
    """The names that `joined_name` made this one of; the name itself where it made none."""
    module, dot, kind = name.rpartition(".")
    first, *others = module.split("+")
    scope = "" if any("." in other for other in others) else first[: first.rfind(".") + 1]
    return tuple(f"{scope}{part}{dot}{kind}" for part in (first[len(scope) :], *others))
