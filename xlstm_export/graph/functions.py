"""The operators of domain `ai.xlstm`: their schemas, and their definitions in standard ONNX operators.

A definition travels in every file as a model-local function. It is what a runtime without our kernels runs, and
the specification of every kernel. Computation and states are float32; T is float, float16 or bfloat16.
"""

from __future__ import annotations

import onnx
from onnx.defs import OpSchema

DOMAIN = "ai.xlstm"
VERSION = 1
OPSET = 21
PLUGIN_ATTRIBUTES = {"plugin_version": str(VERSION), "plugin_namespace": DOMAIN}
"""On every node: TensorRT's parser finds the plugin by them."""

# Step mode: S = 1, no `lengths`. Attributes that can be 0 for "none" are resolved with Where on constants,
# which every runtime folds.

_MLSTM_STEP = """
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "mLSTM cell, one step (Beck et al. 2024, equations 19 to 27)">
MLSTMCell <q_scale: float = 1.0, k_scale: float = 1.0, gate_soft_cap: float = 0.0, eps: float = 1e-6>
          (q, k, v, i, f, C, n, m) => (h, C_next, n_next, m_next)
{
    zero = Constant <value_float: float = 0.0> ()
    one = Constant <value_float: float = 1.0> ()
    last = Constant <value_ints: ints = [-1]> ()
    q_factor = Constant <value_float: float = @q_scale> ()
    k_factor = Constant <value_float: float = @k_scale> ()
    epsilon = Constant <value_float: float = @eps> ()
    cap = Constant <value_float: float = @gate_soft_cap> ()
    uncapped = Equal (cap, zero)
    safe_cap = Where (uncapped, one, cap)

    i_float = Cast <to: int = 1> (i)
    i_scaled = Div (i_float, safe_cap)
    i_tanh = Tanh (i_scaled)
    i_capped = Mul (i_tanh, safe_cap)
    i_gate = Where (uncapped, i_float, i_capped)
    i_bh = Transpose <perm: ints = [0, 2, 1]> (i_gate)

    f_float = Cast <to: int = 1> (f)
    f_scaled = Div (f_float, safe_cap)
    f_tanh = Tanh (f_scaled)
    f_capped = Mul (f_tanh, safe_cap)
    f_gate = Where (uncapped, f_float, f_capped)
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

_SLSTM_STEP = """
<opset_import: ["" : 21], domain: "ai.xlstm", doc_string: "sLSTM cell, one step (Beck et al. 2024, equations 8 to 18)">
SLSTMCell <forget_clamp: float = 0.0>
          (x, R, b, y, c, n, m) => (hidden, y_next, c_next, n_next, m_next)
{
    zero = Constant <value_float: float = 0.0> ()
    highest = Constant <value_float: float = 3.4028234e38> ()
    one_axis = Constant <value_ints: ints = [1]> ()
    clamp = Constant <value_float: float = @forget_clamp> ()
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

    f_bounded = Min (f_raw, bound)
    f_negative = Neg (f_bounded)
    f_softplus = Softplus (f_negative)
    carried = Sub (m, f_softplus)
    fresh = Equal (n, zero)
    m_running = Max (i_raw, carried)
    m_next = Where (fresh, i_raw, m_running)
    gain_log = Sub (i_raw, m_next)
    gain = Exp (gain_log)
    decay_log = Sub (carried, m_next)
    decay_running = Exp (decay_log)
    decay = Where (fresh, zero, decay_running)

    z = Tanh (z_raw)
    o = Sigmoid (o_raw)
    c_decayed = Mul (decay, c)
    c_added = Mul (gain, z)
    c_next = Add (c_decayed, c_added)
    n_decayed = Mul (decay, n)
    n_next = Add (n_decayed, gain)
    ratio = Div (c_next, n_next)
    y_next = Mul (o, ratio)
    y_step = Unsqueeze (y_next, one_axis)
    hidden = CastLike (y_step, x)
}
"""

_T = ("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "activations")
_TR = ("TR", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "recurrent weights: T or float")


def step_functions() -> dict[str, onnx.FunctionProto]:
    """The definitions for step mode, by operator name."""
    return {name: onnx.parser.parse_function(text) for name, text in _STEP_TEXT.items()}


_STEP_TEXT = {"MLSTMCell": _MLSTM_STEP, "SLSTMCell": _SLSTM_STEP}


def register_schemas() -> None:
    """Make `onnx` and the exporter know the operators. Repeated calls do nothing."""
    for schema in (_mlstm_schema(), _slstm_schema()):
        if not onnx.defs.has(schema.name, DOMAIN):
            onnx.defs.register_schema(schema)


def _parameters(kind: OpSchema.FormalParameterOption, spec: str) -> list[OpSchema.FormalParameter]:
    """`"q:T k:T C:float"` as formal parameters."""
    types = {"float": "tensor(float)", "int32": "tensor(int32)"}
    pairs = (item.split(":") for item in spec.split())
    return [OpSchema.FormalParameter(name, types.get(t, t), param_option=kind) for name, t in pairs]


def _schema(name: str, doc: str, inputs: str, outputs: str, constraints: list, floats: dict[str, float]) -> OpSchema:
    single, optional = OpSchema.FormalParameterOption.Single, OpSchema.FormalParameterOption.Optional
    attributes = [OpSchema.Attribute(key, onnx.helper.make_attribute(key, value)) for key, value in floats.items()]
    attributes += [OpSchema.Attribute(key, onnx.helper.make_attribute(key, "")) for key in PLUGIN_ATTRIBUTES]
    return OpSchema(
        name, DOMAIN, VERSION, doc,
        inputs=_parameters(single, inputs) + _parameters(optional, "lengths:int32"),
        outputs=_parameters(single, outputs),
        type_constraints=constraints, attributes=attributes,
    )  # fmt: skip


def _mlstm_schema() -> OpSchema:
    return _schema(
        "MLSTMCell", "mLSTM cell: q, k (B,S,H,DK), v (B,S,H,DV), i, f (B,S,H), C (B,H,DK,DV), n (B,H,DK), m (B,H).",
        "q:T k:T v:T i:T f:T C:float n:float m:float", "h:T C_next:float n_next:float m_next:float", [_T],
        {"q_scale": 1.0, "k_scale": 1.0, "gate_soft_cap": 0.0, "eps": 1e-6},
    )  # fmt: skip


def _slstm_schema() -> OpSchema:
    return _schema(
        "SLSTMCell", "sLSTM cell: x (B,S,4,H,DH), R (H,4,DH,DH), b (4,H,DH), y, c, n, m (B,H,DH).",
        "x:T R:TR b:float y:float c:float n:float m:float",
        "hidden:T y_next:float c_next:float n_next:float m_next:float", [_T, _TR], {"forget_clamp": 0.0},
    )  # fmt: skip
