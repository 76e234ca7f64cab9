"""The definitions of what stands around the cells, as `definitions.py` has those of the cells.

Shapes are N = B S positions one under the other. A step knows B = N; over a sequence `lengths` tells B.
"""

CAUSAL_CONV_STEP = """
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "Depthwise causal convolution, then SiLU, one step">
CausalConv (x, window, weight, bias) => (y, window_next)
{
    zero = Constant <value_ints: ints = [0]> ()
    first = Constant <value_ints: ints = [1]> ()
    past = Constant <value_ints: ints = [9223372036854775807]> ()
    width = Shape (bias)
    x_own = Slice (x, zero, width, first)
    column = Unsqueeze (x_own, first)
    columns = Concat <axis: int = 1> (window, column)
    weighted = Mul (columns, weight)
    sum = ReduceSum <keepdims: int = 0> (weighted, first)
    raw = Add (sum, bias)
    gate = Sigmoid (raw)
    y = Mul (raw, gate)
    window_next = Slice (columns, first, past, first)
}
"""

CAUSAL_CONV_SEQUENCE = """
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "Depthwise causal convolution, then SiLU, S positions">
CausalConv (x, window, weight, bias, lengths) => (y, window_next)
{
    zero = Constant <value_int: int = 0> ()
    one = Constant <value_int: int = 1> ()
    rest = Constant <value_ints: ints = [-1]> ()
    first = Constant <value_ints: ints = [1]> ()
    taps_axis = Constant <value_ints: ints = [2]> ()

    batch_size = Shape (lengths)
    width = Shape (bias)
    kernel_size = Shape <start: int = 0, end: int = 1> (weight)
    kernel = Squeeze (kernel_size)
    none = Constant <value_ints: ints = [0]> ()
    rows_shape = Concat <axis: int = 0> (batch_size, rest, width)
    flat_shape = Concat <axis: int = 0> (rest, width)

    x_own = Slice (x, none, width, first)
    x_rows = Reshape (x_own, rows_shape)
    columns = Concat <axis: int = 1> (window, x_rows)
    sequence_size = Shape <start: int = 1, end: int = 2> (x_rows)
    sequence = Squeeze (sequence_size)
    positions = Range (zero, sequence, one)
    position = Unsqueeze (positions, first)
    taps = Range (zero, kernel, one)
    reach = Add (position, taps)
    reached = Gather <axis: int = 1> (columns, reach)
    weighted = Mul (reached, weight)
    sum = ReduceSum <keepdims: int = 0> (weighted, taps_axis)
    sum_flat = Reshape (sum, flat_shape)
    raw = Add (sum_flat, bias)
    gate = Sigmoid (raw)
    y = Mul (raw, gate)

    kept_count = Sub (kernel, one)
    kept = Range (zero, kept_count, one)
    length = Cast <to: int = 7> (lengths)
    start = Unsqueeze (length, first)
    index = Add (start, kept)
    index_column = Unsqueeze (index, taps_axis)
    window_next = GatherND <batch_dims: int = 1> (columns, index_column)
}
"""


_FOUND = """
    zero = Constant <value_int: int = 0> ()
    one = Constant <value_int: int = 1> ()
    batch_size = Shape <start: int = 0, end: int = 1> (tokens)
    batch = Squeeze (batch_size)
    rows = Range (zero, batch, one)
    first_row = Gather (rows, zero)
    sequence_size = Shape <start: int = 1, end: int = 2> (tokens)
    sequence = Squeeze (sequence_size)
    positions = Range (zero, sequence, one)
    first_position = Gather (positions, zero)
    none = Add (first_row, first_position)
"""

VALID_TOKENS_STEP = f"""
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "Tokens, which there must be"> ValidTokens (tokens) => (y)
{{
    {_FOUND}
    y = Add (tokens, none)
}}
"""

VALID_TOKENS_SEQUENCE = f"""
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "Tokens, and 0 for the padding">
ValidTokens (tokens, lengths) => (y)
{{
    {_FOUND}
    last_axis = Constant <value_ints: ints = [1]> ()
    length = Cast <to: int = 7> (lengths)
    length_column = Unsqueeze (length, last_axis)
    valid = Less (positions, length_column)
    y = Where (valid, tokens, none)
}}
"""

LAST_POSITIONS = """
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "The last position of each row, its first where it has none">
LastPositions (x, lengths) => (y)
{
    zero = Constant <value_int: int = 0> ()
    one = Constant <value_int: int = 1> ()
    batch_size = Shape (lengths)
    batch = Squeeze (batch_size)
    rows = Range (zero, batch, one)
    count = Shape <start: int = 0, end: int = 1> (x)
    sequence = Div (count, batch_size)
    begin = Mul (rows, sequence)
    length = Cast <to: int = 7> (lengths)
    before = Sub (length, one)
    last = Max (before, zero)
    index = Add (begin, last)
    y = Gather (x, index)
}
"""

_HEAD_NORM = """
    head_width = Shape <start: int = 1, end: int = 2> (weight)
    scale = ConstantOfShape <value: tensor = float[1] {1.0}> (head_width)
    h_float = Cast <to: int = 1> (h)
    h_normal = LayerNormalization <axis: int = -1, epsilon: float = @eps> (h_float, scale)
    h_weighted = Mul (h_normal, weight)
"""

_GATE = """
    rest = Constant <value_ints: ints = [-1]> ()
    last_axis = Constant <value_ints: ints = [1]> ()
    past = Constant <value_ints: ints = [9223372036854775807]> ()
    size = Size (weight)
    width = Reshape (size, rest)
    flat_shape = Concat <axis: int = 0> (rest, width)
    h_all = Reshape (h_weighted, flat_shape)
    width_before = Neg (width)
    gate_own = Slice (gate, width_before, past, last_axis)
    gate_sigmoid = Sigmoid (gate_own)
"""

HEAD_NORM = f"""
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "Norm of each head">
HeadNorm <eps: float = 1e-5> (h, weight) => (y)
{{
    {_HEAD_NORM}
    rest = Constant <value_ints: ints = [-1]> ()
    size = Size (weight)
    width = Reshape (size, rest)
    flat_shape = Concat <axis: int = 0> (rest, width)
    y = Reshape (h_weighted, flat_shape)
}}
"""

GATED_HEAD_NORM = f"""
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "Sigmoid of the output gate times the norm of each head">
GatedHeadNorm <eps: float = 1e-6> (h, weight, gate) => (y)
{{
    {_HEAD_NORM}
    {_GATE}
    y = Mul (gate_sigmoid, h_all)
}}
"""

SKIP_GATED_HEAD_NORM = f"""
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "(norm of each head + skip x) SiLU(gate)">
SkipGatedHeadNorm <eps: float = 1e-5> (h, weight, gate, skip, x) => (y)
{{
    {_HEAD_NORM}
    {_GATE}
    skipped = Mul (skip, x)
    sum = Add (h_all, skipped)
    gate_silu = Mul (gate_own, gate_sigmoid)
    y = Mul (sum, gate_silu)
}}
"""

_ADD = """
    y_float = Cast <to: int = 1> (y)
    x_next = Add (x, y_float)
"""

ADD_LAYER_NORM = f"""
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "x + y, and its layer norm">
AddLayerNorm <eps: float = 1e-5> (x, y, weight) => (normal, x_next)
{{
    {_ADD}
    normal = LayerNormalization <axis: int = -1, epsilon: float = @eps> (x_next, weight)
}}
"""

# The norm as ONNX Runtime's fusion to one kernel expects it.
ADD_RMS_NORM = f"""
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "x + y, and its root mean square norm">
AddRMSNorm <eps: float = 1e-6> (x, y, weight) => (normal, x_next)
{{
    {_ADD}
    two = Constant <value_float: float = 2.0> ()
    least = Constant <value_float: float = @eps> ()
    last_axis = Constant <value_ints: ints = [-1]> ()
    squares = Pow (x_next, two)
    mean = ReduceMean (squares, last_axis)
    sum = Add (mean, least)
    root = Sqrt (sum)
    scaled = Div (x_next, root)
    normal = Mul (scaled, weight)
}}
"""


SOFT_CAP = """
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "cap tanh(x / cap)">
SoftCap <cap: float = 30.0> (x) => (y)
{
    x_float = Cast <to: int = 1> (x)
    most = Constant <value_float: float = @cap> ()
    share = Div (x_float, most)
    bounded = Tanh (share)
    y = Mul (bounded, most)
}
"""


def _gated_linear_unit(name: str, doc: str, active: str) -> str:
    return f"""
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "{doc}"> {name} (x) => (y)
{{
    gate, up = Split <axis: int = -1, num_outputs: int = 2> (x)
    gate_float = Cast <to: int = 1> (gate)
    up_float = Cast <to: int = 1> (up)
    {active}
    product = Mul (active, up_float)
    y = CastLike (product, x)
}}
"""


GEGLU = _gated_linear_unit("GEGLU", "GELU of the first half, times the second", "active = Gelu (gate_float)")
SWIGLU = _gated_linear_unit(
    "SwiGLU",
    "SiLU of the first half, times the second",
    "sigmoid = Sigmoid (gate_float) active = Mul (gate_float, sigmoid)",
)
