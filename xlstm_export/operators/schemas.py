"""The operators of domain `ai.xlstm`: their schemas, and their definitions in standard ONNX operators.

A definition (`definitions.py`) travels in every file as a model-local function. It is what a runtime without our
kernels runs, and the specification of every kernel. Computation and states are float32; T is float, float16 or
bfloat16, and so is TC, the memory C of the mLSTM as it is stored between two passes.
"""

from __future__ import annotations

import onnx
from onnx.defs import OpSchema

from . import definitions, layer_definitions, linear_attention, projection_definitions
from .names import (
    ADD_LAYER_NORM,
    ADD_RMS_NORM,
    CAUSAL_CONV,
    CELLS,
    DOMAIN,
    GATED_HEAD_NORM,
    GEGLU,
    HEAD_NORM,
    LAST_POSITIONS,
    MLSTM_CELL,
    MLSTM_HEADS,
    MLSTM_PROJECTIONS,
    PLUGIN_ATTRIBUTES,
    SKIP_GATED_HEAD_NORM,
    SLSTM_CELL,
    SLSTM_PROJECTIONS,
    SOFT_CAP,
    SWIGLU,
    VALID_TOKENS,
    VERSION,
    Definitions,
)

_T = ("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "activations")
_TC = ("TC", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "the memory as it is stored")
_TR = ("TR", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "recurrent weights: T or float")


_OF_ANY_POSITIONS = (
    layer_definitions.HEAD_NORM,
    layer_definitions.GATED_HEAD_NORM,
    layer_definitions.SKIP_GATED_HEAD_NORM,
    layer_definitions.ADD_LAYER_NORM,
    layer_definitions.ADD_RMS_NORM,
    layer_definitions.GEGLU,
    layer_definitions.SWIGLU,
    layer_definitions.SOFT_CAP,
)


def step_functions() -> dict[str, onnx.FunctionProto]:
    """The definitions for one step without `lengths`, by operator name."""
    return _parse(
        definitions.MLSTM_STEP,
        definitions.SLSTM_STEP,
        layer_definitions.CAUSAL_CONV_STEP,
        projection_definitions.MLSTM_PROJECTIONS_STEP,
        projection_definitions.SLSTM_PROJECTIONS_STEP,
        projection_definitions.MLSTM_HEADS_STEP,
        layer_definitions.VALID_TOKENS_STEP,
        *_OF_ANY_POSITIONS,
    )


def sequence_functions() -> dict[str, onnx.FunctionProto]:
    """The definitions for any number of positions with `lengths`, by operator name."""
    return _parse(
        definitions.MLSTM_SEQUENCE,
        definitions.SLSTM_SEQUENCE,
        layer_definitions.CAUSAL_CONV_SEQUENCE,
        projection_definitions.MLSTM_PROJECTIONS_SEQUENCE,
        projection_definitions.SLSTM_PROJECTIONS_SEQUENCE,
        projection_definitions.MLSTM_HEADS_SEQUENCE,
        layer_definitions.VALID_TOKENS_SEQUENCE,
        layer_definitions.LAST_POSITIONS,
        *_OF_ANY_POSITIONS,
    )


def use_definitions(model: onnx.ModelProto, wanted: Definitions) -> None:
    """Exchange the definitions in a file. The nodes stay as they are."""
    texts = {"standard": definitions, "linear-attention": linear_attention}[wanted]
    for function in model.functions:
        if (function.domain, function.name) == (DOMAIN, MLSTM_CELL):
            text = texts.MLSTM_SEQUENCE if "lengths" in function.input else texts.MLSTM_STEP
            stored = function.node[0].op_type == "Cast" and list(function.node[0].input) == ["C"]
            new = onnx.parser.parse_function(text)
            function.CopyFrom(with_stored_memory(new) if stored else new)
            known = {opset.domain for opset in model.opset_import}
            model.opset_import.extend(opset for opset in function.opset_import if opset.domain not in known)


def with_stored_memory(function: onnx.FunctionProto) -> onnx.FunctionProto:
    """A definition of the mLSTM for a memory C of any type TC: widened first, rounded last, h from what is unrounded.

    A definition for float32 goes without these casts: where C' is an output of the graph, runtimes would copy it.
    """
    wide = onnx.FunctionProto()
    wide.CopyFrom(function)
    computed = {"C": "C_float", "C_next": "C_next_float"}
    for node in wide.node:
        for names in (node.input, node.output):
            names[:] = [computed.get(name, name) for name in names]
    wide.node.insert(0, onnx.helper.make_node("Cast", ["C"], ["C_float"], to=onnx.TensorProto.FLOAT))
    wide.node.append(onnx.helper.make_node("CastLike", ["C_next_float", "C"], ["C_next"]))
    return wide


def _parse(*texts: str) -> dict[str, onnx.FunctionProto]:
    functions = map(onnx.parser.parse_function, texts)
    return {function.name: function for function in functions}


def register_schemas() -> None:
    """Make `onnx` and the exporter know the operators. Repeated calls do nothing."""
    for schema in (_mlstm_schema(), _slstm_schema(), *_layer_schemas()):
        if not onnx.defs.has(schema.name, DOMAIN):
            onnx.defs.register_schema(schema)


def _parameters(kind: OpSchema.FormalParameterOption, spec: str) -> list[OpSchema.FormalParameter]:
    """`"q:T k:T C:float"` as formal parameters."""
    types = {"float": "tensor(float)", "int32": "tensor(int32)", "int64": "tensor(int64)"}
    pairs = (item.split(":") for item in spec.split())
    return [OpSchema.FormalParameter(name, types.get(t, t), param_option=kind) for name, t in pairs]


def _schema(
    name: str,
    doc: str,
    inputs: str,
    outputs: str,
    constraints: list,
    values: dict[str, float],
    optional: str = "",
    numbers: tuple[str, ...] = (),
) -> OpSchema:
    """`values`: of attributes that a node may leave out; `numbers`: integers that it has to say."""
    attributes = [OpSchema.Attribute(key, onnx.helper.make_attribute(key, value)) for key, value in values.items()]
    attributes += [OpSchema.Attribute(key, OpSchema.AttrType.INT, "", required=True) for key in numbers]
    if name in CELLS:
        attributes += [OpSchema.Attribute(key, onnx.helper.make_attribute(key, "")) for key in PLUGIN_ATTRIBUTES]
    return OpSchema(
        name,
        DOMAIN,
        VERSION,
        doc,
        inputs=_parameters(OpSchema.FormalParameterOption.Single, inputs)
        + _parameters(OpSchema.FormalParameterOption.Optional, optional),
        outputs=_parameters(OpSchema.FormalParameterOption.Single, outputs),
        type_constraints=constraints,
        attributes=attributes,
    )


_LENGTHS = "lengths:int32"


def _mlstm_schema() -> OpSchema:
    return _schema(
        MLSTM_CELL,
        "mLSTM cell: q, k (B,S,H,DK), v (B,S,H,DV), i, f (B,S,H), C (B,H,DK,DV), n (B,H,DK), m (B,H).",
        "q:T k:T v:T i:T f:T C:TC n:float m:float",
        "h:T C_next:TC n_next:float m_next:float",
        [_T, _TC],
        {"q_scale": 1.0, "k_scale": 1.0, "gate_soft_cap": 0.0, "eps": 1e-6},
        _LENGTHS,
    )


def _slstm_schema() -> OpSchema:
    return _schema(
        SLSTM_CELL,
        "sLSTM cell: x (B,S,4,H,DH), R (H,4,DH,DH), b (4,H,DH), y, c, n, m (B,H,DH).",
        "x:T R:TR b:float y:float c:float n:float m:float",
        "hidden:T y_next:float c_next:float n_next:float m_next:float",
        [_T, _TR],
        {"forget_clamp": 0.0},
        _LENGTHS,
    )


def _layer_schemas() -> tuple[OpSchema, ...]:
    """What stands around the cells; N = B S."""
    return (
        _schema(
            CAUSAL_CONV,
            "Depthwise causal convolution of x[:, :D], then SiLU: x (N,X), y (N,D), window (B,K-1,D), weight (K,D).",
            "x:float window:float weight:float bias:float",
            "y:float window_next:float",
            [],
            {},
            _LENGTHS,
        ),
        _schema(
            MLSTM_PROJECTIONS,
            "Inputs of an mLSTM cell from x_conv (N,I) and x[:, :I] (N,X): weights (G,W,W), of gates (H,3I), (H).",
            "x_conv:float x:float q_weight:float k_weight:float v_weight:float i_weight:T i_bias:T f_weight:T f_bias:T",
            "q:T k:T v:T i:T f:T",
            [_T],
            {"together": 1},
            _LENGTHS,
        ),
        _schema(
            SLSTM_PROJECTIONS,
            "Inputs of an sLSTM cell: x_conv, x (N,H D), weights (H,D,D) [head, out, in], gates (B,S,4,H,D).",
            "x_conv:float x:float i_weight:T f_weight:T z_weight:T o_weight:T",
            "gates:T",
            [_T],
            {"together": 1},
            _LENGTHS,
        ),
        _schema(
            MLSTM_HEADS,
            "Inputs of an mLSTM cell from x (N,[q,k,v,o]) and gates (N,[i,f]), and its output gate o (N,H V).",
            "x:T gates:T",
            "q:T k:T v:T i:T f:T o:float",
            [_T],
            {},
            _LENGTHS,
            numbers=("heads", "qk_head", "v_head"),
        ),
        _schema(
            HEAD_NORM,
            "Norm of each head: h (B,S,H,D), weight (H,D), y (N,H D).",
            "h:T weight:float",
            "y:float",
            [_T],
            {"eps": 1e-5},
        ),
        _schema(
            GATED_HEAD_NORM,
            "Sigmoid of gate[:, -H D:] times the norm of each head: h (B,S,H,D), weight (H,D), gate (N,Z), y (N,H D).",
            "h:T weight:float gate:float",
            "y:float",
            [_T],
            {"eps": 1e-6},
        ),
        _schema(
            SKIP_GATED_HEAD_NORM,
            "(norm of each head + skip x) SiLU(gate[:, -H D:]): h (B,S,H,D), weight (H,D), gate (N,Z), x, y (N,H D).",
            "h:T weight:float gate:float skip:float x:float",
            "y:float",
            [_T],
            {"eps": 1e-5},
        ),
        *(
            _schema(
                name,
                f"x + y, and its {kind} norm: x, y, normal, x_next (N,D), weight (D).",
                "x:float y:T weight:float",
                "normal:float x_next:float",
                [_T],
                {"eps": eps},
            )
            for name, kind, eps in ((ADD_LAYER_NORM, "layer", 1e-5), (ADD_RMS_NORM, "root mean square", 1e-6))
        ),
        *(
            _schema(name, f"{kind} of x[:, :F], times x[:, F:]: x (N,2F), y (N,F).", "x:T", "y:T", [_T], {})
            for name, kind in ((GEGLU, "GELU"), (SWIGLU, "SiLU"))
        ),
        _schema(SOFT_CAP, "cap tanh(x / cap): x, y (B,S,V).", "x:T", "y:float", [_T], {"cap": 30.0}),
        _schema(
            VALID_TOKENS,
            "Tokens (B,S) with 0 for the padding, of which there must be one at least.",
            "tokens:int64",
            "y:int64",
            [],
            {},
            _LENGTHS,
        ),
        _schema(
            LAST_POSITIONS,
            "Of x (N,D) the last position of each row, its first where it has none: y (B,D).",
            f"x:float {_LENGTHS}",
            "y:float",
            [],
            {},
        ),
    )
