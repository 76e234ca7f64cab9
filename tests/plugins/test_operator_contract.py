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
from xlstm_export.operators.names import DOMAIN, MLSTM_CELL, OPSET, PLUGIN_ATTRIBUTES, SLSTM_CELL, VERSION
from xlstm_export.operators.schemas import register_schemas, sequence_functions

OPERATORS = (MLSTM_CELL, SLSTM_CELL)
EXTENTS = {letter: extent for extent, letter in enumerate("BSHKVD", 2)}  # no two the same
ELEMENTS = dict.fromkeys(["T", "TR", "TC", "tensor(float)"], TensorProto.FLOAT)
ELEMENTS["tensor(int32)"] = TensorProto.INT32


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
    assert CREATORS == tuple((name, contract["plugin_version"], contract["domain"]) for name in names)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_tensors_are_those_of_the_schema(operator, schema, side):
    assert [(name, kind) for name, kind, _ in operator[side]] == [(p.name, p.type_str) for p in getattr(schema, side)]


def test_only_the_last_input_may_be_absent(operator, schema):
    optional = [p.option == onnx.defs.OpSchema.FormalParameterOption.Optional for p in schema.inputs]
    assert optional == [False] * (len(operator["inputs"]) - 1) + [True]


def test_attributes_and_their_defaults_are_those_of_the_schema(operator, schema):
    defaults = {
        name: np.float32(attribute.default_value.f)
        for name, attribute in schema.attributes.items()
        if name not in PLUGIN_ATTRIBUTES
    }
    assert {name: np.float32(value) for name, value in operator["attributes"].items()} == defaults


def test_states_follow_one_another_in_both_lists(operator):
    states = operator["inputs"][operator["first_state"] : -1]
    assert [[f"{name}_next", kind, shape] for name, kind, shape in states] == operator["outputs"][1:]


def test_definition_takes_and_gives_the_shapes_of_the_letters(operator):
    """The definition that is in every file, on tensors of these shapes; an axis in the wrong place does not fit."""

    def shape(letters: str) -> list[int]:
        return [EXTENTS[axis] if axis.isalpha() else int(axis) for axis in letters]

    infos = [
        helper.make_tensor_value_info(n, ELEMENTS[kind], shape(letters)) for n, kind, letters in operator["inputs"]
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name, _, _ in operator["outputs"]]
    node = helper.make_node(operator["name"], [i.name for i in infos], [o.name for o in outputs], domain=DOMAIN)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    graph = helper.make_graph([node], "g", infos, outputs)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    model.functions.append(sequence_functions()[operator["name"]])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {
        name: np.ones(shape(letters), np.int32 if kind == "tensor(int32)" else np.float32)
        for name, kind, letters in operator["inputs"]
    }
    for (name, _, letters), value in zip(operator["outputs"], session.run(None, feeds), strict=True):
        assert list(value.shape) == shape(letters), name
