"""The cells' definitions in standard ONNX operators, in ONNX's textual syntax.

Each cell has two: one step (S = 1, no `lengths`), and a sequence (any S, `lengths`). A file carries the one that fits
its graph. Attributes that can be 0 for "none" are resolved with Where on constants, which every runtime folds. They are
cast to float, since tools that simplify graphs take a `value_float` for a double; other constants are tensors.
"""

from collections.abc import Mapping

_MLSTM_ATTRIBUTES = """
    q_factor_given = Constant <value_float: float = @q_scale> ()
    q_factor = Cast <to: int = 1> (q_factor_given)
    k_factor_given = Constant <value_float: float = @k_scale> ()
    k_factor = Cast <to: int = 1> (k_factor_given)
    epsilon_given = Constant <value_float: float = @eps> ()
    epsilon = Cast <to: int = 1> (epsilon_given)
    cap_given = Constant <value_float: float = @gate_soft_cap> ()
    cap = Cast <to: int = 1> (cap_given)
    uncapped = Equal (cap, zero)
    safe_cap = Where (uncapped, one, cap)
"""


def _soft_cap(gate: str) -> str:
    """cap tanh(x / cap), or x where there is no cap."""
    return f"""
    {gate}_float = Cast <to: int = 1> ({gate})
    {gate}_scaled = Div ({gate}_float, safe_cap)
    {gate}_tanh = Tanh ({gate}_scaled)
    {gate}_capped = Mul ({gate}_tanh, safe_cap)
    {gate}_gate = Where (uncapped, {gate}_float, {gate}_capped)
"""


def _slstm_gates(old: str, new: str) -> str:
    """Equations 8 to 18 but the recurrent product, element by element; `old`, `new`: ends of the states' names."""
    return f"""
    f_bounded = Min (f_raw, bound)
    f_negative = Neg (f_bounded)
    f_softplus = Softplus (f_negative)
    carried = Sub (m{old}, f_softplus)
    fresh = Equal (n{old}, zero)
    m_running = Max (i_raw, carried)
    m{new} = Where (fresh, i_raw, m_running)
    gain_log = Sub (i_raw, m{new})
    gain = Exp (gain_log)
    decay_log = Sub (carried, m{new})
    decay_running = Exp (decay_log)
    decay = Where (fresh, zero, decay_running)

    z = Tanh (z_raw)
    o = Sigmoid (o_raw)
    c_decayed = Mul (decay, c{old})
    c_added = Mul (gain, z)
    c{new} = Add (c_decayed, c_added)
    n_decayed = Mul (decay, n{old})
    n{new} = Add (n_decayed, gain)
    ratio = Div (c{new}, n{new})
    y{new} = Mul (o, ratio)
"""


# The stabiliser m at all positions. With lf = log f and g_t = m + sum_{u <= t} lf_u, the weight of position s in
# position t is exp(span_ts + i_s - m_t), span_ts = sum_{s < u <= t} lf_u, and m_t the largest of these exponents and of
# g_t. The spans are sums of what they span, a product with a triangle of ones: differences of cumulative sums would
# cancel after one closed forget gate. Padding closes the input gate and opens the forget gate, so that it leaves every
# state as it is.
_MLSTM_POSITIONS = """
    closed = Constant <value: tensor = float {-1e30}> ()
    first = Constant <value_int: int = 0> ()
    stride = Constant <value_int: int = 1> ()
    last = Constant <value_ints: ints = [-1]> ()
    rows = Constant <value_ints: ints = [-2]> ()
    past = Constant <value_ints: ints = [9223372036854775807]> ()
    two_last = Constant <value_ints: ints = [2, 3]> ()

    size = Shape <start: int = 1, end: int = 2> (q)
    count = Squeeze (size)
    positions = Range (first, count, stride)
    later = Unsqueeze (positions, last)
    causal = GreaterOrEqual (later, positions)
    triangle = Cast <to: int = 1> (causal)
    beyond = Greater (later, positions)
    strict_triangle = Cast <to: int = 1> (beyond)
    index = Cast <to: int = 6> (positions)
    length = Unsqueeze (lengths, last)
    valid = Less (index, length)
    valid_3 = Unsqueeze (valid, last)
    valid_4 = Unsqueeze (valid, two_last)

    ...soft cap of i...
    i_valid = Where (valid_3, i_gate, closed)
    i_bh = Transpose <perm: ints = [0, 2, 1]> (i_valid)
    log_i = Unsqueeze (i_bh, rows)

    ...soft cap of f...
    f_negative = Neg (f_gate)
    f_softplus = Softplus (f_negative)
    f_log = Neg (f_softplus)
    f_valid = Where (valid_3, f_log, zero)
    f_bh = Transpose <perm: ints = [0, 2, 1]> (f_valid)
    log_f = Unsqueeze (f_bh, last)

    passed = Mul (log_f, strict_triangle)
    span = MatMul (triangle, passed)
    weight_log = Add (span, log_i)
    weight_causal = Where (causal, weight_log, closed)
    since = MatMul (triangle, log_f)
    m_row = Unsqueeze (m, two_last)
    carried = Add (since, m_row)
    strongest = ReduceMax <keepdims: int = 1> (weight_causal, last)
    m_new = Max (carried, strongest)
"""


_SHARED = {
    "...attributes of the mLSTM...": _MLSTM_ATTRIBUTES,
    "...positions of the mLSTM...": _MLSTM_POSITIONS,
    "...soft cap of i...": _soft_cap("i"),
    "...soft cap of f...": _soft_cap("f"),
    "...gates of the sLSTM...": _slstm_gates("", "_next"),
    "...gates of the sLSTM from old to new...": _slstm_gates("_old", "_new"),
}


def whole(text: str, parts: Mapping[str, str] = {}) -> str:
    """A definition with what is written `...so...` put in: `parts`, and what all definitions share."""
    for name, part in (*parts.items(), *_SHARED.items()):
        text = text.replace(name, part)
    return text


MLSTM_STEP = whole(
    """
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "mLSTM cell, one step (Beck et al. 2024, equations 19 to 27)">
MLSTMCell <q_scale: float = 1.0, k_scale: float = 1.0, gate_soft_cap: float = 0.0, eps: float = 1e-6>
          (q, k, v, i, f, C, n, m) => (h, C_next, n_next, m_next)
{
    zero = Constant <value: tensor = float {0.0}> ()
    one = Constant <value: tensor = float {1.0}> ()
    last = Constant <value_ints: ints = [-1]> ()
    ...attributes of the mLSTM...

    ...soft cap of i...
    i_bh = Transpose <perm: ints = [0, 2, 1]> (i_gate)

    ...soft cap of f...
    f_bh = Transpose <perm: ints = [0, 2, 1]> (f_gate)

    f_negative = Neg (f_bh)
    f_softplus = Softplus (f_negative)
    log_f = Neg (f_softplus)
    m_bh = Unsqueeze (m, last)
    carried = Add (log_f, m_bh)
    m_new = Max (carried, i_bh)
    decay_log = Sub (carried, m_new)
    decay = Exp (decay_log)
    gain_log = Sub (i_bh, m_new)
    gain = Exp (gain_log)

    q_float = Cast <to: int = 1> (q)
    q_bh = Transpose <perm: ints = [0, 2, 1, 3]> (q_float)
    query = Mul (q_bh, q_factor)
    k_float = Cast <to: int = 1> (k)
    k_bh = Transpose <perm: ints = [0, 2, 3, 1]> (k_float)
    k_scaled = Mul (k_bh, k_factor)
    gain_4 = Unsqueeze (gain, last)
    key = Mul (k_scaled, gain_4)
    v_float = Cast <to: int = 1> (v)
    value = Transpose <perm: ints = [0, 2, 1, 3]> (v_float)

    decay_4 = Unsqueeze (decay, last)
    C_decayed = Mul (C, decay_4)
    outer = Mul (key, value)
    C_next = Add (C_decayed, outer)

    n_decayed = Mul (n, decay)
    key_bh = Squeeze (key, last)
    n_next = Add (n_decayed, key_bh)
    m_next = Squeeze (m_new, last)

    numerator = MatMul (query, C_next)
    n_column = Unsqueeze (n_next, last)
    overlap = MatMul (query, n_column)
    overlap_size = Abs (overlap)
    m_negative = Neg (m_new)
    floor = Exp (m_negative)
    floor_4 = Unsqueeze (floor, last)
    denominator = Max (overlap_size, floor_4)
    denominator_eps = Add (denominator, epsilon)
    h_bh = Div (numerator, denominator_eps)
    h_float = Transpose <perm: ints = [0, 2, 1, 3]> (h_bh)
    h = CastLike (h_float, q)
}
"""
)

SLSTM_STEP = whole(
    """
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "sLSTM cell, one step (Beck et al. 2024, equations 8 to 18)">
SLSTMCell <forget_clamp: float = 0.0>
          (x, R, b, y, c, n, m) => (hidden, y_next, c_next, n_next, m_next)
{
    zero = Constant <value: tensor = float {0.0}> ()
    highest = Constant <value: tensor = float {3.4028234e38}> ()
    one_axis = Constant <value_ints: ints = [1]> ()
    clamp_given = Constant <value_float: float = @forget_clamp> ()
    clamp = Cast <to: int = 1> (clamp_given)
    unclamped = Equal (clamp, zero)
    bound = Where (unclamped, highest, clamp)

    R_float = Cast <to: int = 1> (R)
    y_columns = Transpose <perm: ints = [1, 2, 0]> (y)
    y_heads = Unsqueeze (y_columns, one_axis)
    recurrent_heads = MatMul (R_float, y_heads)
    recurrent = Transpose <perm: ints = [3, 1, 0, 2]> (recurrent_heads)
    x_float = Cast <to: int = 1> (x)
    x_step = Squeeze (x_float, one_axis)
    x_recurrent = Add (x_step, recurrent)
    raw = Add (x_recurrent, b)
    i_raw_4, f_raw_4, z_raw_4, o_raw_4 = Split <axis: int = 1, num_outputs: int = 4> (raw)
    i_raw = Squeeze (i_raw_4, one_axis)
    f_raw = Squeeze (f_raw_4, one_axis)
    z_raw = Squeeze (z_raw_4, one_axis)
    o_raw = Squeeze (o_raw_4, one_axis)

    ...gates of the sLSTM...
    y_step = Unsqueeze (y_next, one_axis)
    hidden = CastLike (y_step, x)
}
"""
)

# All positions at once (the chunkwise-parallel form, one chunk, the old state carried in).

MLSTM_SEQUENCE = whole(
    """
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "mLSTM cell, S positions (Beck et al. 2024, eq. 19 to 27)">
MLSTMCell <q_scale: float = 1.0, k_scale: float = 1.0, gate_soft_cap: float = 0.0, eps: float = 1e-6>
          (q, k, v, i, f, C, n, m, lengths) => (h, C_next, n_next, m_next)
{
    zero = Constant <value: tensor = float {0.0}> ()
    one = Constant <value: tensor = float {1.0}> ()
    ...attributes of the mLSTM...
    ...positions of the mLSTM...

    decay_log = Sub (carried, m_new)
    decay = Exp (decay_log)
    gain_log = Sub (weight_causal, m_new)
    gain = Exp (gain_log)

    q_float = Cast <to: int = 1> (q)
    q_bh = Transpose <perm: ints = [0, 2, 1, 3]> (q_float)
    query = Mul (q_bh, q_factor)
    k_float = Cast <to: int = 1> (k)
    k_valid = Where (valid_4, k_float, zero)
    k_bh = Transpose <perm: ints = [0, 2, 3, 1]> (k_valid)
    key = Mul (k_bh, k_factor)
    v_float = Cast <to: int = 1> (v)
    v_valid = Where (valid_4, v_float, zero)
    value = Transpose <perm: ints = [0, 2, 1, 3]> (v_valid)

    similarity = MatMul (query, key)
    attention = Mul (similarity, gain)
    inside = MatMul (attention, value)
    query_old = Mul (query, decay)
    outside = MatMul (query_old, C)
    numerator = Add (inside, outside)
    n_column = Unsqueeze (n, last)
    overlap_outside = MatMul (query_old, n_column)
    overlap_inside = ReduceSum <keepdims: int = 1> (attention, last)
    overlap = Add (overlap_inside, overlap_outside)
    overlap_size = Abs (overlap)
    m_negative = Neg (m_new)
    floor = Exp (m_negative)
    denominator = Max (overlap_size, floor)
    denominator_eps = Add (denominator, epsilon)
    h_bh = Div (numerator, denominator_eps)
    h_all = Transpose <perm: ints = [0, 2, 1, 3]> (h_bh)
    h_float = Where (valid_4, h_all, zero)
    h = CastLike (h_float, q)

    gain_last = Slice (gain, last, past, rows)
    key_last = Mul (key, gain_last)
    added = MatMul (key_last, value)
    decay_last = Slice (decay, last, past, rows)
    C_decayed = Mul (C, decay_last)
    C_next = Add (C_decayed, added)
    decay_head = Squeeze (decay_last, last)
    n_decayed = Mul (n, decay_head)
    n_added = ReduceSum <keepdims: int = 0> (key_last, last)
    n_next = Add (n_decayed, n_added)
    m_last = Slice (m_new, last, past, rows)
    m_next = Squeeze (m_last, two_last)
}
"""
)

# One position after the other. States and pre-activations have the batch last, (H, DH, B) and (H, 4, DH, B), so that
# R y of all rows is one product and nothing is transposed within the loop. (TensorRT-RTX 1.7 cannot compile the loop
# for S = 1 with states of four axes, which would save the axis that is put in here.)

SLSTM_SEQUENCE = whole(
    """
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "sLSTM cell, S positions (Beck et al. 2024, eq. 8 to 18)">
SLSTMCell <forget_clamp: float = 0.0>
          (x, R, b, y, c, n, m, lengths) => (hidden, y_next, c_next, n_next, m_next)
{
    zero = Constant <value: tensor = float {0.0}> ()
    highest = Constant <value: tensor = float {3.4028234e38}> ()
    first = Constant <value_int: int = 0> ()
    stride = Constant <value_int: int = 1> ()
    last = Constant <value_ints: ints = [-1]> ()
    one_axis = Constant <value_ints: ints = [1]> ()
    gate_i = Constant <value_int: int = 0> ()
    gate_f = Constant <value_int: int = 1> ()
    gate_z = Constant <value_int: int = 2> ()
    gate_o = Constant <value_int: int = 3> ()
    clamp_given = Constant <value_float: float = @forget_clamp> ()
    clamp = Cast <to: int = 1> (clamp_given)
    unclamped = Equal (clamp, zero)
    bound = Where (unclamped, highest, clamp)

    size = Shape <start: int = 1, end: int = 2> (x)
    count = Squeeze (size)
    positions = Range (first, count, stride)
    index = Cast <to: int = 6> (positions)
    index_column = Unsqueeze (index, last)
    valid = Less (index_column, lengths)

    R_float = Cast <to: int = 1> (R)
    x_float = Cast <to: int = 1> (x)
    x_bias = Add (x_float, b)
    inputs = Transpose <perm: ints = [1, 3, 2, 4, 0]> (x_bias)
    y_last = Transpose <perm: ints = [1, 2, 0]> (y)
    c_last = Transpose <perm: ints = [1, 2, 0]> (c)
    n_last = Transpose <perm: ints = [1, 2, 0]> (n)
    m_last = Transpose <perm: ints = [1, 2, 0]> (m)

    y_end, c_end, n_end, m_end, hidden_all = Scan <
        num_scan_inputs: int = 2,
        body: graph = step (float[H, D, B] y_old, float[H, D, B] c_old, float[H, D, B] n_old, float[H, D, B] m_old,
                            float[H, four, D, B] input, bool[B] advances)
            => (float[H, D, B] y_kept, float[H, D, B] c_kept, float[H, D, B] n_kept, float[H, D, B] m_kept,
                float[H, D, B] output)
        {
            y_column = Unsqueeze (y_old, one_axis)
            recurrent = MatMul (R_float, y_column)
            raw = Add (input, recurrent)
            i_raw = Gather <axis: int = 1> (raw, gate_i)
            f_raw = Gather <axis: int = 1> (raw, gate_f)
            z_raw = Gather <axis: int = 1> (raw, gate_z)
            o_raw = Gather <axis: int = 1> (raw, gate_o)

            ...gates of the sLSTM from old to new...

            y_kept = Where (advances, y_new, y_old)
            c_kept = Where (advances, c_new, c_old)
            n_kept = Where (advances, n_new, n_old)
            m_kept = Where (advances, m_new, m_old)
            output = Where (advances, y_new, zero)
        }
    > (y_last, c_last, n_last, m_last, inputs, valid)

    y_next = Transpose <perm: ints = [2, 0, 1]> (y_end)
    c_next = Transpose <perm: ints = [2, 0, 1]> (c_end)
    n_next = Transpose <perm: ints = [2, 0, 1]> (n_end)
    m_next = Transpose <perm: ints = [2, 0, 1]> (m_end)
    hidden_float = Transpose <perm: ints = [3, 0, 1, 2]> (hidden_all)
    hidden = CastLike (hidden_float, x)
}
"""
)
