"""The definitions of what makes the cells' inputs; `layer_definitions.py` has those of what else stands around them."""


def _diagonal(weight: str) -> str:
    """What puts `together` blocks on the diagonal of a wider one, for weights of this name and type."""
    return f"""
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    rest = Constant <value_ints: ints = [-1]> ()
    first = Constant <value_int: int = 0> ()
    stride = Constant <value_int: int = 1> ()
    row_axes = Constant <value_ints: ints = [1, 2, 3]> ()
    column_axes = Constant <value_ints: ints = [0, 1, 3]> ()
    together_count = Constant <value_int: int = @together> ()
    together_size = Reshape (together_count, one)
    places = Range (first, together_count, stride)
    row = Unsqueeze (places, row_axes)
    column = Unsqueeze (places, column_axes)
    on_diagonal = Equal (row, column)
    diagonal = CastLike (on_diagonal, {weight})
    width = Shape <start: int = 2, end: int = 3> ({weight})
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
    {_diagonal("q_weight")}
    flat_shape = Constant <value_ints: ints = [0, -1]> ()
    wide = Mul (together_size, width)
    narrow_shape = Concat <axis: int = 0> (rest, together_size, width, one, width)
    wide_shape = Concat <axis: int = 0> (rest, wide, wide)

    groups_shape = Concat <axis: int = 0> (zero, rest, wide)
    x_conv_split = Reshape (x_conv, groups_shape)
    x_conv_groups = Transpose <perm: ints = [1, 0, 2]> (x_conv_split)
    block_count = Shape <start: int = 0, end: int = 1> (q_weight)
    inner_size = Mul (block_count, width)
    x_own = Slice (x, zero, inner_size, one)
    x_split = Reshape (x_own, groups_shape)
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
    head_width = Div (inner_size, heads)
    head_shape = Concat <axis: int = 0> (batch, rest, heads, head_width)
    gate_shape = Concat <axis: int = 0> (batch, rest, heads)
    {_BY_HEADS}
}}
"""


def _gates_of_heads(name: str, x: str, first: str, second: str) -> str:
    """(H / together, N, together, 2, D): two gates from x, in one batch of products."""
    return f"""
    {name}_weights = Concat <axis: int = 1> ({first}_weight, {second}_weight)
    {name}_columns = Transpose <perm: ints = [0, 2, 1]> ({name}_weights)
    {name}_narrow = Reshape ({name}_columns, narrow_shape)
    {name}_diagonal = Mul ({name}_narrow, diagonal)
    {name}_wide = Reshape ({name}_diagonal, wide_shape)
    {name}_x = CastLike ({x}, i_weight)
    {name}_split = Reshape ({name}_x, groups_shape)
    {name}_groups = Transpose <perm: ints = [1, 0, 2]> ({name}_split)
    {name}_product = MatMul ({name}_groups, {name}_wide)
    {name} = Reshape ({name}_product, product_shape)
"""


_SLSTM_PROJECTIONS = f"""
    {_diagonal("i_weight")}
    two = Constant <value_ints: ints = [2]> ()
    four = Constant <value_ints: ints = [4]> ()
    heads = Shape <start: int = 0, end: int = 1> (i_weight)
    two_widths = Mul (two, width)
    wide_in = Mul (together_size, width)
    wide_out = Mul (together_size, two_widths)
    narrow_shape = Concat <axis: int = 0> (rest, together_size, width, one, two_widths)
    wide_shape = Concat <axis: int = 0> (rest, wide_in, wide_out)
    groups_shape = Concat <axis: int = 0> (zero, rest, wide_in)
    product_shape = Concat <axis: int = 0> (zero, zero, together_size, two, width)

    {_gates_of_heads("early", "x_conv", "i", "f")}
    {_gates_of_heads("late", "x", "z", "o")}
    by_group = Concat <axis: int = 3> (early, late)
    by_position = Transpose <perm: ints = [1, 3, 0, 2, 4]> (by_group)
    gates_shape = Concat <axis: int = 0> (batch, sequence, four, heads, width)
    gates = Reshape (by_position, gates_shape)
"""

SLSTM_PROJECTIONS_STEP = f"""
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "Inputs of an sLSTM cell, one step">
SLSTMProjections <together: int = 1> (x_conv, x, i_weight, f_weight, z_weight, o_weight) => (gates)
{{
    batch = Constant <value_ints: ints = [-1]> ()
    sequence = Constant <value_ints: ints = [1]> ()
    {_SLSTM_PROJECTIONS}
}}
"""

SLSTM_PROJECTIONS_SEQUENCE = f"""
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "Inputs of an sLSTM cell, S positions">
SLSTMProjections <together: int = 1> (x_conv, x, i_weight, f_weight, z_weight, o_weight, lengths) => (gates)
{{
    batch = Shape (lengths)
    sequence = Constant <value_ints: ints = [-1]> ()
    {_SLSTM_PROJECTIONS}
}}
"""

_HEADS = """
    rest = Constant <value_ints: ints = [-1]> ()
    one = Constant <value_ints: ints = [1]> ()
    heads_count = Constant <value_int: int = @heads> ()
    qk_head_count = Constant <value_int: int = @qk_head> ()
    v_head_count = Constant <value_int: int = @v_head> ()
    head_size = Reshape (heads_count, one)
    qk_head_size = Reshape (qk_head_count, one)
    v_head_size = Reshape (v_head_count, one)
    qk_size = Mul (head_size, qk_head_size)
    v_size = Mul (head_size, v_head_size)
    sizes = Concat <axis: int = 0> (qk_size, qk_size, v_size, v_size)
    q_all, k_all, v_all, o_all = Split <axis: int = -1> (x, sizes)
    i_all, f_all = Split <axis: int = -1, num_outputs: int = 2> (gates)
    qk_shape = Concat <axis: int = 0> (batch, sequence, head_size, qk_head_size)
    v_shape = Concat <axis: int = 0> (batch, sequence, head_size, v_head_size)
    gate_shape = Concat <axis: int = 0> (batch, sequence, head_size)
    q = Reshape (q_all, qk_shape)
    k = Reshape (k_all, qk_shape)
    v = Reshape (v_all, v_shape)
    i = Reshape (i_all, gate_shape)
    f = Reshape (f_all, gate_shape)
    o = Cast <to: int = 1> (o_all)
"""

MLSTM_HEADS_STEP = f"""
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "Inputs of an mLSTM cell and its output gate, one step">
MLSTMHeads <heads, qk_head, v_head> (x, gates) => (q, k, v, i, f, o)
{{
    batch = Constant <value_ints: ints = [-1]> ()
    sequence = Constant <value_ints: ints = [1]> ()
    {_HEADS}
}}
"""

MLSTM_HEADS_SEQUENCE = f"""
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "Inputs of an mLSTM cell and its output gate, S positions">
MLSTMHeads <heads, qk_head, v_head> (x, gates, lengths) => (q, k, v, i, f, o)
{{
    batch = Shape (lengths)
    sequence = Constant <value_ints: ints = [-1]> ()
    {_HEADS}
}}
"""
