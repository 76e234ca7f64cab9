"""The table that both C++ bindings read, `plugins/cells/contract.h`, against the operators as Python defines them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from support.native import build_without_cuda, run

from xlstm_export.native.check import CREATORS
from xlstm_export.operators.names import (
    ADD_LAYER_NORM,
    ADD_RMS_NORM,
    CAUSAL_CONV,
    CELLS,
    DOMAIN,
    GATED_HEAD_NORM,
    GEGLU,
    HEAD_NORM,
    LAST_POSITIONS,
    MLSTM_HEADS,
    MLSTM_PROJECTIONS,
    OPSET,
    PLUGIN_ATTRIBUTES,
    SKIP_GATED_HEAD_NORM,
    SLSTM_PROJECTIONS,
    SOFT_CAP,
    SWIGLU,
    VALID_TOKENS,
    VERSION,
)
from xlstm_export.operators.schemas import register_schemas, sequence_functions

HEAD_NORMS = (HEAD_NORM, GATED_HEAD_NORM, SKIP_GATED_HEAD_NORM)
LAYERS = (CAUSAL_CONV, MLSTM_PROJECTIONS, SLSTM_PROJECTIONS, MLSTM_HEADS, *HEAD_NORMS, ADD_LAYER_NORM, ADD_RMS_NORM)
LAYERS += (GEGLU, SWIGLU, SOFT_CAP, VALID_TOKENS, LAST_POSITIONS)
OPERATORS = (*CELLS, *LAYERS)
EXTENTS = {letter: extent for extent, letter in enumerate("BSHKVD", 2)}  # no two the same
# Beside them N = B S, I = H K = G W, J = 3 I; and of each operator its own.
EXTENTS |= {"N": 6, "I": 20, "G": 10, "W": 2, "J": 60, "X": 24, "F": 12, "C": 9}
OWN_EXTENTS = {CAUSAL_CONV: {"L": 4}, SLSTM_PROJECTIONS: {"C": 28}, **dict.fromkeys(HEAD_NORMS, {"I": 28, "Z": 31})}
OWN_EXTENTS[MLSTM_HEADS] = {"X": 88, "Z": 8, "I": 24}  # 2 H (K + V), 2 H, H V
ELEMENTS = dict.fromkeys(["T", "TR", "TC", "tensor(float)"], TensorProto.FLOAT)
ELEMENTS |= {"tensor(int32)": TensorProto.INT32, "tensor(int64)": TensorProto.INT64}


@pytest.fixture(scope="module")
def contract() -> dict:
    return json.loads(run(build_without_cuda("print_contract") / "bin" / "print_contract"))


@pytest.fixture(params=OPERATORS)
def operator(request, contract) -> dict:
    """One operator of the table."""
    return next(op for op in contract["operators"] if op["name"] == request.param)


@pytest.fixture
def schema(operator) -> onnx.defs.OpSchema:
    register_schemas()
    return onnx.defs.get_schema(operator["name"], VERSION, DOMAIN)


def test_names_and_version_are_the_same_in_cpp_and_python(contract):
    names = [operator["name"] for operator in contract["operators"]]
    assert (contract["domain"], contract["version"], tuple(names)) == (DOMAIN, VERSION, OPERATORS)
    assert CREATORS == tuple((name, contract["plugin_version"], contract["domain"]) for name in CELLS)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_tensors_are_those_of_the_schema(operator, schema, side):
    assert [(name, kind) for name, kind, _ in operator[side]] == [(p.name, p.type_str) for p in getattr(schema, side)]


def test_the_same_last_inputs_may_be_absent(operator, schema):
    optional = [p.option == onnx.defs.OpSchema.FormalParameterOption.Optional for p in schema.inputs]
    required = len(operator["inputs"]) - operator["optional"]
    assert optional == [False] * required + [True] * operator["optional"]
    assert operator["optional"] == (operator["inputs"][-1][0] == "lengths" and operator["name"] != LAST_POSITIONS)


def test_attributes_and_their_defaults_are_those_of_the_schema(operator, schema):
    defaults = {
        name: np.float32(attribute.default_value.f)
        for name, attribute in schema.attributes.items()
        if attribute.type == onnx.defs.OpSchema.AttrType.FLOAT
    }
    numbers = {*schema.attributes} - {*defaults}
    assert numbers - {*operator["extents"]} <= {*PLUGIN_ATTRIBUTES, "together"}, "what no kernel needs"
    assert {*operator["extents"]} == {name for name in numbers if schema.attributes[name].required}
    assert {name: np.float32(value) for name, value in operator["attributes"].items()} == defaults


def test_states_follow_one_another_in_both_lists(operator):
    first, count = operator["first_state"], operator["states"]
    states = operator["inputs"][first : first + count]
    next_states = [tensor for tensor in operator["outputs"] if tensor[0].endswith("_next")]
    assert [[f"{name}_next", kind, shape] for name, kind, shape in states] == next_states
    assert next_states == operator["outputs"][1 : 1 + count]


def test_definition_takes_and_gives_the_shapes_of_the_letters(operator):
    """The definition that is in every file, on tensors of these shapes; an axis in the wrong place does not fit."""

    extents = EXTENTS | OWN_EXTENTS.get(operator["name"], {})

    def shape(letters: str) -> list[int]:
        return [extents[axis] if axis.isalpha() else int(axis) for axis in letters]

    infos = [
        helper.make_tensor_value_info(n, ELEMENTS[kind], shape(letters)) for n, kind, letters in operator["inputs"]
    ]
    outputs = [helper.make_tensor_value_info(name, ELEMENTS[kind], None) for name, kind, _ in operator["outputs"]]
    names, numbers = [o.name for o in outputs], {name: extents[letter] for name, letter in operator["extents"].items()}
    node = helper.make_node(operator["name"], [i.name for i in infos], names, domain=DOMAIN, **numbers)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    graph = helper.make_graph([node], "g", infos, outputs)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    model.functions.append(sequence_functions()[operator["name"]])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {
        name: np.ones(shape(letters), helper.tensor_dtype_to_np_dtype(ELEMENTS[kind]))
        for name, kind, letters in operator["inputs"]
    }
    for (name, _, letters), value in zip(operator["outputs"], session.run(None, feeds), strict=True):
        assert list(value.shape) == shape(letters), name
