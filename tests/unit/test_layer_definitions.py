"""What stands around the cells: the definitions in every file, in plain ONNX Runtime, against the eager operators."""

import dataclasses

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from support.layer_cases import HAVE_LENGTHS, OPERATORS, layer_case

from xlstm_export.operators import names, schemas

TYPES = {"torch.float32": onnx.TensorProto.FLOAT, "torch.float16": onnx.TensorProto.FLOAT16}
SEEDS = range(6)


def run_definition(case):
    """The outputs by name, float32."""
    tensors = case.tensors | ({} if case.lengths is None else {"lengths": case.lengths})
    types = {name: TYPES.get(str(t.dtype), onnx.TensorProto.INT32) for name, t in tensors.items()}
    inputs = [onnx.helper.make_tensor_value_info(n, types[n], list(t.shape)) for n, t in tensors.items()]
    kind = max((types[n] for n in case.typed if n in types), default=onnx.TensorProto.FLOAT)  # FLOAT is the least
    kinds = {n: kind if n in case.typed else onnx.TensorProto.FLOAT for n in case.outputs}
    outputs = [onnx.helper.make_tensor_value_info(n, kind, None) for n, kind in kinds.items()]
    node = onnx.helper.make_node(case.name, list(tensors), case.outputs, domain=names.DOMAIN, **case.attributes)
    functions = schemas.step_functions() if case.lengths is None else schemas.sequence_functions()
    opsets = [onnx.helper.make_opsetid("", names.OPSET), onnx.helper.make_opsetid(names.DOMAIN, 1)]
    graph = onnx.helper.make_graph([node], "g", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=opsets, functions=[functions[case.name]], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results = session.run(None, {n: t.numpy() for n, t in tensors.items()})
    return {name: value.astype(np.float32) for name, value in zip(case.outputs, results, strict=True)}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", OPERATORS)
def test_definition_of_a_step_equals_the_eager_operator(name, dtype):
    for seed in SEEDS:
        case = layer_case(name, seed, lengths=False, dtype=dtype)
        case.check(run_definition(case))


@pytest.mark.parametrize("name", HAVE_LENGTHS)
def test_definition_of_a_sequence_equals_the_eager_operator(name):
    for seed in SEEDS:
        case = layer_case(name, seed, lengths=True)
        case.check(run_definition(case))


@pytest.mark.parametrize("name", HAVE_LENGTHS)
def test_a_sequence_of_one_position_is_a_step(name):
    for seed in SEEDS:
        step = layer_case(name, seed, lengths=False)
        sequence = run_definition(_with_lengths(step))
        for output, value in run_definition(step).items():
            np.testing.assert_allclose(sequence[output], value, rtol=1e-6, atol=1e-6, err_msg=output)


def _with_lengths(case):
    return dataclasses.replace(case, lengths=torch.ones(case.batch, dtype=torch.int32))
