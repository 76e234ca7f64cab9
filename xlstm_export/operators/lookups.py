"""Rows of a quantised embedding: looked up as codes and scales, and only then made numbers.

No runtime has kernels for these: the definitions are all there is, as local functions of standard operators. (ONNX
Runtime gathers no four-bit integers, and from a matrix behind `DequantizeLinear` only once it has unpacked the whole of
it.) Four-bit codes are gathered as the bytes that hold two of them. A nibble is moved into a byte's upper half, where
the byte is sixteen times the signed code.

A matrix W (N, K) lies by rows, or by columns as products want it (K, N). All give y (M, K) float32 for indices (M).
"""

from __future__ import annotations

import onnx

from .names import DOMAIN, INT4_COLUMNS, INT4_ROWS, INT8_COLUMNS, INT8_ROWS, OPSET, VERSION


def lookup_name(bits: int, rows: bool) -> str:
    """The operator that looks up codes of so many bits."""
    if bits == 4:
        return INT4_ROWS if rows else INT4_COLUMNS
    return INT8_ROWS if rows else INT8_COLUMNS


def lookup_function(name: str) -> onnx.FunctionProto:
    """The definition of one of them."""
    return onnx.parser.parse_function(_DEFINITIONS[name])


def _definition(name: str, body: str) -> str:
    return f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}, "{DOMAIN}" : {VERSION}]>
{name} <block_size> (codes, scales, indices) => (y)
{{{body}}}
"""


_ROWS_OF_SCALES = """
    scale_rows = Gather <axis = 0> (scales, indices)
    scale = Cast <to: int = 1> (scale_rows)
"""
_COLUMNS_OF_SCALES = """
    scale_columns = Gather <axis = 1> (scales, indices)
    scale_rows = Transpose <perm = [1, 0]> (scale_columns)
    scale = Cast <to: int = 1> (scale_rows)
"""
_NIBBLES = """
    four = Constant <value: tensor = uint8 {4}> ()
    upper = Constant <value: tensor = uint8 {240}> ()
    first = BitShift <direction = "LEFT"> (bytes, four)
    second = BitwiseAnd (bytes, upper)
"""
_WEIGHTS = """
    y = DequantizeLinear <axis = -1, block_size: int = @block_size> (rows, scale)
"""
_SIXTEENTHS = """
    times_sixteen = DequantizeLinear <axis = -1, block_size: int = @block_size> (rows, scale)
    sixteenth = Constant <value: tensor = float {0.0625}> ()
    y = Mul (times_sixteen, sixteenth)
"""

_DEFINITIONS = {
    INT8_ROWS: _definition(
        INT8_ROWS,
        f"""
    rows = Gather <axis = 0> (codes, indices)
    {_ROWS_OF_SCALES}{_WEIGHTS}""",
    ),
    INT8_COLUMNS: _definition(
        INT8_COLUMNS,
        f"""
    columns = Gather <axis = 1> (codes, indices)
    rows = Transpose <perm = [1, 0]> (columns)
    {_COLUMNS_OF_SCALES}{_WEIGHTS}""",
    ),
    INT4_ROWS: _definition(
        INT4_ROWS,
        f"""
    bytes = Gather <axis = 0> (codes, indices)
    {_NIBBLES}
    last = Constant <value: tensor = int64[1] {{-1}}> ()
    first_column = Unsqueeze (first, last)
    second_column = Unsqueeze (second, last)
    pairs = Concat <axis = -1> (first_column, second_column)
    shifted = Flatten <axis = 1> (pairs)
    rows = Cast <to: int = 3> (shifted)
    {_ROWS_OF_SCALES}{_SIXTEENTHS}""",
    ),
    INT4_COLUMNS: _definition(
        INT4_COLUMNS,
        f"""
    two = Constant <value: tensor = int64 {{2}}> ()
    byte = Div (indices, two)
    half = Mod (indices, two)
    is_second = Cast <to: int = 9> (half)
    bytes = Gather <axis = 1> (codes, byte)
    {_NIBBLES}
    shifted = Where (is_second, second, first)
    columns = Cast <to: int = 3> (shifted)
    rows = Transpose <perm = [1, 0]> (columns)
    {_COLUMNS_OF_SCALES}{_SIXTEENTHS}""",
    ),
}
