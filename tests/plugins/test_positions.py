"""Padding and last positions: the definitions in every file and the CPU kernels against the eager operators."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.native import onnxruntime_operators

from xlstm_export.operators.eager_layers import last_positions, valid_tokens
from xlstm_export.operators.names import DOMAIN, LAST_POSITIONS, OPSET, VALID_TOKENS, VERSION
from xlstm_export.operators.schemas import sequence_functions, step_functions

ROWS = st.lists(st.integers(0, 5), min_size=1, max_size=4)
"""Lengths of rows of up to 5 positions."""
INPUTS = {
    "tokens": (TensorProto.INT64, ["batch", "sequence"]),
    "x": (TensorProto.FLOAT, ["count", "width"]),
    "lengths": (TensorProto.INT32, ["batch"]),
}


@pytest.fixture(scope="module", params=["definition", "kernel"])
def run(request):
    """run(operator, inputs by name) → output; every session is made once."""
    sessions = {}

    def call(name: str, **inputs: np.ndarray) -> np.ndarray:
        key = (name, *inputs)
        if key not in sessions:
            sessions[key] = _session(name, [*inputs], request.param == "kernel")
        return sessions[key].run(None, inputs)[0]

    return call


def _session(name: str, inputs: list[str], kernel: bool) -> ort.InferenceSession:
    values = [helper.make_tensor_value_info(one, *INPUTS[one]) for one in inputs]
    output = helper.make_tensor_value_info("y", INPUTS[inputs[0]][0], ["rows", "columns"])
    graph = helper.make_graph([helper.make_node(name, inputs, ["y"], domain=DOMAIN)], "g", values, [output])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    functions = sequence_functions() if "lengths" in inputs else step_functions()
    model.functions.append(functions[name])
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if kernel:
        options.register_custom_ops_library(str(onnxruntime_operators()))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(rows=ROWS, sequence=st.integers(1, 5), seed=st.integers(0, 99))
def test_tokens_are_theirs_up_to_each_length_and_zero_beyond(rows, sequence, seed, run):
    lengths = np.minimum(np.array(rows, np.int32), sequence)
    tokens = np.random.default_rng(seed).integers(-(2**40), 2**40, (len(rows), sequence))
    expected = valid_tokens(torch.from_numpy(tokens), torch.from_numpy(lengths)).numpy()
    np.testing.assert_array_equal(run(VALID_TOKENS, tokens=tokens, lengths=lengths), expected)
    np.testing.assert_array_equal(run(VALID_TOKENS, tokens=tokens), tokens)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(rows=ROWS, sequence=st.integers(1, 5), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_last_position_is_the_last_of_each_length_or_the_first(rows, sequence, width, seed, run):
    lengths = np.minimum(np.array(rows, np.int32), sequence)
    x = np.random.default_rng(seed).standard_normal((len(rows) * sequence, width)).astype(np.float32)
    expected = last_positions(torch.from_numpy(x), torch.from_numpy(lengths)).numpy()
    np.testing.assert_array_equal(run(LAST_POSITIONS, x=x, lengths=lengths), expected)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_nothing_is_refused_before_it_reaches_a_product(shape, run):
    lengths = np.zeros(shape[0], np.int32)
    for inputs in ({"lengths": lengths}, {}):
        with pytest.raises(Exception, match="out of bounds|out of data bounds|do not fit"):
            run(VALID_TOKENS, tokens=np.zeros(shape, np.int64), **inputs)
