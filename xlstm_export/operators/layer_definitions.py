"""The definitions of what stands around the cells, as `definitions.py` has those of the cells.

Shapes are N = B S positions one under the other. A step knows B = N; over a sequence `lengths` tells B.
"""

CAUSAL_CONV_STEP = """
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "Depthwise causal convolution, then SiLU, one step">
CausalConv (x, window, weight, bias) => (y, window_next)
{
    first = Constant <value_ints: ints = [1]> ()
    past = Constant <value_ints: ints = [9223372036854775807]> ()
    column = Unsqueeze (x, first)
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
    rows_shape = Concat <axis: int = 0> (batch_size, rest, width)
    flat_shape = Concat <axis: int = 0> (rest, width)

    x_rows = Reshape (x, rows_shape)
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


def _block_diagonal(name: str, x: str) -> str:
    """Projection `name` of x: its narrow blocks on the diagonals of wider ones, one batch of small products."""
    return f"""
    {name}_blocks = Transpose <perm: ints = [0, 2, 1]> ({name}_weight)
    {name}_narrow = Reshape ({name}_blocks, narrow_shape)
    {name}_diagonal = Mul ({name}_narrow, diagonal)
    {name}_wide = Reshape ({name}_diagonal, wide_shape)
    {name}_grouped = MatMul ({x}_groups, {name}_wide)
    {name}_rows = Transpose <perm: ints = [1, 0, 2]> ({name}_grouped)
    {name}_flat = Reshape ({name}_rows, flat_shape)
    {name}_all = CastLike ({name}_flat, i_weight)
"""


def _gate(name: str) -> str:
    """Pre-activations of one gate. Accumulated in float32: ONNX Runtime has no bfloat16 product on a CPU.

    A `MatMul`, which `engines/rewrite.py` makes into sums where TensorRT-RTX has no float32 product.
    """
    return f"""
    {name}_weight_float = Cast <to: int = 1> ({name}_weight)
    {name}_weight_columns = Transpose <perm: ints = [1, 0]> ({name}_weight_float)
    {name}_bias_float = Cast <to: int = 1> ({name}_bias)
    {name}_product = MatMul (qkv_float, {name}_weight_columns)
    {name}_float = Add ({name}_product, {name}_bias_float)
    {name}_all = CastLike ({name}_float, {name}_weight)
"""


_PROJECTIONS = f"""
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    rest = Constant <value_ints: ints = [-1]> ()
    flat_shape = Constant <value_ints: ints = [0, -1]> ()
    first = Constant <value_int: int = 0> ()
    stride = Constant <value_int: int = 1> ()
    row_axes = Constant <value_ints: ints = [1, 2, 3]> ()
    column_axes = Constant <value_ints: ints = [0, 1, 3]> ()

    together_count = Constant <value_int: int = @together> ()
    together_size = Reshape (together_count, one)
    width = Shape <start: int = 2, end: int = 3> (q_weight)
    wide = Mul (together_size, width)
    narrow_shape = Concat <axis: int = 0> (rest, together_size, width, one, width)
    wide_shape = Concat <axis: int = 0> (rest, wide, wide)
    places = Range (first, together_count, stride)
    row = Unsqueeze (places, row_axes)
    column = Unsqueeze (places, column_axes)
    on_diagonal = Equal (row, column)
    diagonal = CastLike (on_diagonal, q_weight)

    groups_shape = Concat <axis: int = 0> (zero, rest, wide)
    x_conv_split = Reshape (x_conv, groups_shape)
    x_conv_groups = Transpose <perm: ints = [1, 0, 2]> (x_conv_split)
    x_split = Reshape (x, groups_shape)
    x_groups = Transpose <perm: ints = [1, 0, 2]> (x_split)
    {_block_diagonal("q", "x_conv")}
    {_block_diagonal("k", "x_conv")}
    {_block_diagonal("v", "x")}

    qkv = Concat <axis: int = 1> (q_all, k_all, v_all)
    qkv_float = Cast <to: int = 1> (qkv)
    {_gate("i")}
    {_gate("f")}
    heads = Shape (i_bias)
"""

_BY_HEADS = """
    q = Reshape (q_all, head_shape)
    k = Reshape (k_all, head_shape)
    v = Reshape (v_all, head_shape)
    i = Reshape (i_all, gate_shape)
    f = Reshape (f_all, gate_shape)
"""

MLSTM_PROJECTIONS_STEP = f"""
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "Inputs of an mLSTM cell, one step">
MLSTMProjections <together: int = 1>
    (x_conv, x, q_weight, k_weight, v_weight, i_weight, i_bias, f_weight, f_bias) => (q, k, v, i, f)
{{
    {_PROJECTIONS}
    head_shape = Concat <axis: int = 0> (zero, one, heads, rest)
    gate_shape = Constant <value_ints: ints = [0, 1, -1]> ()
    {_BY_HEADS}
}}
"""

MLSTM_PROJECTIONS_SEQUENCE = f"""
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "Inputs of an mLSTM cell, S positions">
MLSTMProjections <together: int = 1>
    (x_conv, x, q_weight, k_weight, v_weight, i_weight, i_bias, f_weight, f_bias, lengths) => (q, k, v, i, f)
{{
    {_PROJECTIONS}
    batch = Shape (lengths)
    groups = Shape <start: int = 0, end: int = 1> (q_weight)
    inner = Mul (groups, width)
    head_width = Div (inner, heads)
    head_shape = Concat <axis: int = 0> (batch, rest, heads, head_width)
    gate_shape = Concat <axis: int = 0> (batch, rest, heads)
    {_BY_HEADS}
}}
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
    gate_shape = Shape (gate)
    h_all = Reshape (h_weighted, gate_shape)
    gate_sigmoid = Sigmoid (gate)
"""

GATED_HEAD_NORM = f"""
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "Sigmoid of the output gate times the norm of each head">
GatedHeadNorm <eps: float = 1e-6> (h, weight, gate) => (y)
{{
    {_HEAD_NORM}
    y = Mul (gate_sigmoid, h_all)
}}
"""

SKIP_GATED_HEAD_NORM = f"""
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "(norm of each head + skip x) SiLU(gate)">
SkipGatedHeadNorm <eps: float = 1e-5> (h, weight, gate, skip, x) => (y)
{{
    {_HEAD_NORM}
    skipped = Mul (skip, x)
    sum = Add (h_all, skipped)
    gate_silu = Mul (gate, gate_sigmoid)
    y = Mul (sum, gate_silu)
}}
"""
