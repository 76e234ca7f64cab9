"""The mLSTM cell by ONNX Runtime's operator `com.microsoft.LinearAttention`, in ONNX's textual syntax.

A second definition of the same node, for ONNX Runtime without our kernels, on CPUs, on GPUs and in browsers: one kernel
updates C, where the standard definition (`definitions.py`) has a chain of products over it.

The operator's gated form is S_t = exp(g_t) S_{t-1} + k_t v_t, o_t = q_t S_t. With the stabiliser m outside of it, that
is the cell: g_t = log f_t + m_{t-1} - m_t, and keys times exp(i_t - m_t); with values of one it gives the normaliser n.
Heads are rows of the batch (B H, S, ...), so that the definition need not know how many there are.
"""

from .definitions import whole

_ATTENTION = """
    any = Constant <value_ints: ints = [-1]> ()
    single = Constant <value_ints: ints = [1]> ()
    key_width = Shape <start: int = 3> (q)
    value_width = Shape <start: int = 3> (v)
    key_rows = Concat <axis: int = 0> (any, size, key_width)
    value_rows = Concat <axis: int = 0> (any, size, value_width)
    scalar_rows = Concat <axis: int = 0> (any, size, single)
    C_rows = Constant <value_ints: ints = [-1, 1, 0, 0]> ()
    n_rows = Concat <axis: int = 0> (any, single, key_width, single)

    decay_rows = Reshape (decay_log, scalar_rows)
    gain = Exp (gain_log)
    key_heads = Transpose <perm: ints = [0, 2, 1, 3]> (k_valid)
    key_scaled = Mul (key_heads, k_factor)
    key = Mul (key_scaled, gain)
    keys = Reshape (key, key_rows)
    query_heads = Transpose <perm: ints = [0, 2, 1, 3]> (q_float)
    query = Mul (query_heads, q_factor)
    queries = Reshape (query, key_rows)
    value = Transpose <perm: ints = [0, 2, 1, 3]> (v_valid)
    values = Reshape (value, value_rows)
    decay_size = Shape (decay_rows)
    ones = Expand (one, decay_size)

    C_before = Reshape (C, C_rows)
    numerator, C_after = com.microsoft.LinearAttention <
        update_rule: string = "gated", scale: float = 1.0, q_num_heads: int = 1, kv_num_heads: int = 1
    > (queries, keys, values, C_before, decay_rows)
    C_shape = Shape (C)
    C_next = Reshape (C_after, C_shape)
    n_before = Reshape (n, n_rows)
    overlap, n_after = com.microsoft.LinearAttention <
        update_rule: string = "gated", scale: float = 1.0, q_num_heads: int = 1, kv_num_heads: int = 1
    > (queries, keys, ones, n_before, decay_rows)
    n_shape = Shape (n)
    n_next = Reshape (n_after, n_shape)

    overlap_size = Abs (overlap)
    m_negative = Neg (m_new)
    floor_heads = Exp (m_negative)
    floor = Reshape (floor_heads, scalar_rows)
    denominator = Max (overlap_size, floor)
    denominator_eps = Add (denominator, epsilon)
    h_rows = Div (numerator, denominator_eps)
    heads = Shape <start: int = 0, end: int = 2> (C)
    h_shape = Concat <axis: int = 0> (heads, size, value_width)
    h_heads = Reshape (h_rows, h_shape)
    h_all = Transpose <perm: ints = [0, 2, 1, 3]> (h_heads)
"""


MLSTM_STEP = whole(
    """
<opset_import: ["" : 21, "com.microsoft" : 1], domain: "ai.xlstm",
 doc_string: "mLSTM cell, one step, by LinearAttention (Beck et al. 2024, equations 19 to 27)">
MLSTMCell <q_scale: float = 1.0, k_scale: float = 1.0, gate_soft_cap: float = 0.0, eps: float = 1e-6>
          (q, k, v, i, f, C, n, m) => (h, C_next, n_next, m_next)
{
    zero = Constant <value: tensor = float {0.0}> ()
    one = Constant <value: tensor = float {1.0}> ()
    last_two = Constant <value_ints: ints = [2, 3]> ()
    last = Constant <value_ints: ints = [-1]> ()
    size = Constant <value_ints: ints = [1]> ()
    ...attributes of the mLSTM...

    ...soft cap of i...
    i_bh = Transpose <perm: ints = [0, 2, 1]> (i_gate)
    log_i = Unsqueeze (i_bh, last)
    ...soft cap of f...
    f_bh = Transpose <perm: ints = [0, 2, 1]> (f_gate)
    f_negative = Neg (f_bh)
    f_softplus = Softplus (f_negative)
    f_log = Neg (f_softplus)
    log_f = Unsqueeze (f_log, last)

    m_row = Unsqueeze (m, last_two)
    carried = Add (log_f, m_row)
    m_new = Max (carried, log_i)
    m_next = Squeeze (m_new, last_two)
    decay_log = Sub (carried, m_new)
    gain_log = Sub (log_i, m_new)
    q_float = Cast <to: int = 1> (q)
    k_valid = Cast <to: int = 1> (k)
    v_valid = Cast <to: int = 1> (v)
    ...attention...
    h = CastLike (h_all, q)
}
""",
    {"...attention...": _ATTENTION},
)

MLSTM_SEQUENCE = whole(
    """
<opset_import: ["" : 21, "com.microsoft" : 1], domain: "ai.xlstm",
 doc_string: "mLSTM cell, S positions, by LinearAttention (Beck et al. 2024, eq. 19 to 27)">
MLSTMCell <q_scale: float = 1.0, k_scale: float = 1.0, gate_soft_cap: float = 0.0, eps: float = 1e-6>
          (q, k, v, i, f, C, n, m, lengths) => (h, C_next, n_next, m_next)
{
    zero = Constant <value: tensor = float {0.0}> ()
    one = Constant <value: tensor = float {1.0}> ()
    ...attributes of the mLSTM...
    ...positions of the mLSTM...

    m_last = Slice (m_new, last, past, rows)
    m_next = Squeeze (m_last, two_last)
    front = Constant <value_ints: ints = [0]> ()
    m_earlier = Slice (m_new, front, last, rows)
    m_before = Concat <axis: int = 2> (m_row, m_earlier)
    decayed = Add (log_f, m_before)
    decay_log = Sub (decayed, m_new)
    i_rows = Unsqueeze (i_bh, last)
    gain_log = Sub (i_rows, m_new)
    q_float = Cast <to: int = 1> (q)
    k_float = Cast <to: int = 1> (k)
    k_valid = Where (valid_4, k_float, zero)
    v_float = Cast <to: int = 1> (v)
    v_valid = Where (valid_4, v_float, zero)
    ...attention...
    h_float = Where (valid_4, h_all, zero)
    h = CastLike (h_float, q)
}
""",
    {"...attention...": _ATTENTION},
)
