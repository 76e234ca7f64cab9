"""The ONNX file itself: valid, self-contained, named after the model, and honest about its states."""

import json

import numpy as np
import onnx
import pytest

from xlstm_export.errors import UserError
from xlstm_export.graph import functions
from xlstm_export.graph.manifest import METADATA_KEY, parse_manifest, read_manifest

FAMILIES = ["a-mixed", "a-tied", "b-single", "c-single", "a-stack"]


@pytest.fixture(params=FAMILIES)
def bundle(request, export_variant):
    return export_variant(request.param)[2]


def load(bundle):
    return onnx.load(bundle / "model.onnx", load_external_data=False)


def test_graph_passes_the_full_check_with_its_weights(bundle):
    onnx.checker.check_model(str(bundle / "model.onnx"), full_check=True)


def test_every_cell_is_one_node_with_its_definition_in_the_file(bundle):
    model = load(bundle)
    cells = [n for n in model.graph.node if n.domain == functions.DOMAIN]
    blocks = read_manifest(bundle).architecture["blocks"]
    assert [n.op_type for n in cells] == ["SLSTMCell" if b["kind"] == "slstm" else "MLSTMCell" for b in blocks]
    assert {f.name for f in model.functions} == {n.op_type for n in cells}
    for node in cells:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert attributes["plugin_version"] == b"1" and attributes["plugin_namespace"] == b"ai.xlstm"


def test_no_other_node_leaves_standard_onnx(bundle):
    assert {n.domain for n in load(bundle).graph.node} == {"", functions.DOMAIN}


def test_forget_gate_is_softplus_never_log_of_sigmoid():
    for function in functions.step_functions().values():
        operators = [n.op_type for n in function.node]
        assert "Softplus" in operators and "Log" not in operators


def test_names_show_the_block_they_come_from(bundle):
    model = load(bundle)
    names = [n.name for n in model.graph.node]
    assert len(set(names)) == len(names)
    roots = ("embedding", "blocks.", "norm", "head", "Reshape")
    assert all(name.startswith(roots) for name in names), [n for n in names if not n.startswith(roots)]
    assert not any(n.metadata_props or n.doc_string for n in model.graph.node)


def test_states_are_named_pairs_in_the_order_of_the_manifest(bundle):
    model, manifest = load(bundle), read_manifest(bundle)
    assert [v.name for v in model.graph.input] == [manifest.input.name, *(s.input for s in manifest.states)]
    assert [v.name for v in model.graph.output] == [manifest.output.name, *(s.output for s in manifest.states)]
    types = {v.name: v.type.tensor_type for v in (*model.graph.input, *model.graph.output)}
    for state in manifest.states:
        for name in (state.input, state.output):
            assert types[name].elem_type == onnx.TensorProto.FLOAT
            dims = [d.dim_param or d.dim_value for d in types[name].shape.dim]
            assert dims == list(state.shape)


def test_manifest_in_the_metadata_is_the_file(bundle):
    props = {p.key: p.value for p in load(bundle).metadata_props}
    assert parse_manifest(json.loads(props[METADATA_KEY]), "metadata") == read_manifest(bundle)


def test_tied_head_is_stored_once(export_variant):
    _, _, bundle = export_variant("a-tied")
    names = [t.name for t in load(bundle).graph.initializer]
    assert "embedding.weight" in names and "head.weight" not in names


def test_weights_are_outside_the_graph(bundle):
    assert (bundle / "model.onnx").stat().st_size < 200_000
    for tensor in load(bundle).graph.initializer:
        assert tensor.name.startswith("constants.") != (tensor.data_location == onnx.TensorProto.EXTERNAL)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_keeps_cells_norms_and_states_in_float32(dtype, export_variant):
    onnx_type = onnx.TensorProto.DataType.Value(dtype.upper())
    model = load(export_variant("a-mixed", dtype)[2])
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    matrices = ("proj_up.weight", "proj_down.weight", "mlstm.igate.weight", "mlstm.fgate.weight", "slstm.R")
    matrices += ("proj_gate_up.weight", "embedding.weight", "head.weight")
    assert {name for name in kinds if name.endswith(matrices)}
    for name, kind in kinds.items():
        if name.endswith(matrices) or name.endswith("gate.bias"):
            assert kind == onnx_type, name
        elif not name.startswith("constants."):  # norms, convolutions, skips, sLSTM biases, narrow projections
            assert kind == onnx.TensorProto.FLOAT, name
    assert all(v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for v in model.graph.output)
    for function in model.functions:
        casts = [n for n in function.node if n.op_type == "Cast"]
        assert casts and all(onnx.helper.get_attribute_value(n.attribute[0]) == onnx.TensorProto.FLOAT for n in casts)


GOOD = {
    "format": "xlstm-bundle", "format_version": 1, "family": "xlstm", "dtype": "float32", "mode": "step", "batch": None,
    "input": {"name": "tokens", "dtype": "int64", "shape": ["batch", 1]},
    "output": {"name": "logits", "dtype": "float32", "shape": ["batch", 1, 5]},
    "states": [{"input": "s", "output": "s.next", "dtype": "float32", "shape": ["batch", 2]}],
    "tokenizer": None, "vocab_size": 5, "architecture": {}, "source": {"path": "x", "sha256": None},
    "weight_files": ["model.weights"], "producer": {},
}  # fmt: skip


@pytest.mark.parametrize(
    "change, says",
    [
        ({"format": "other"}, "not a manifest"),
        ({"format_version": 2}, "format version 2"),
        ({"dtype": "int8"}, "dtype"),
        ({"batch": "many"}, "batch"),
        ({"batch": True}, "batch"),
        ({"states": {}}, "states"),
        ({"states": [3]}, "states[0]"),
        ({"states": [{"input": "s", "output": 1, "dtype": "float32", "shape": [1]}]}, "states[0].output"),
        ({"states": [{"input": "s", "output": "t", "dtype": "float32", "shape": [0]}]}, "shape"),
        ({"input": {"name": "tokens", "dtype": "int64", "shape": ["rows", 1]}}, "input.shape"),
        ({"weight_files": ["../../etc/passwd"]}, "plain file name"),
        ({"source": "here"}, "source"),
    ],
)
def test_damaged_manifest_is_one_clear_error(change, says):
    parse_manifest(GOOD, "manifest.json")
    with pytest.raises(UserError, match="manifest.json") as error:
        parse_manifest(GOOD | change, "manifest.json")
    assert says in str(error.value)


def test_manifest_with_a_missing_key_names_it():
    with pytest.raises(UserError, match="lacks states"):
        parse_manifest({k: v for k, v in GOOD.items() if k != "states"}, "manifest.json")


@pytest.mark.parametrize("name", ["MLSTMCell", "SLSTMCell"])
def test_function_body_equals_the_eager_operator_on_extreme_inputs(name):
    """Gates and stabilisers far out, zero and other states: the file's definition is the one in PyTorch."""
    from cell_inputs import mlstm_inputs, slstm_inputs
    from onnx import helper

    from xlstm_export.modeling import cells

    for seed in range(12):
        if name == "MLSTMCell":
            tensors, attributes = mlstm_inputs(seed)
            reference = cells.mlstm_cell(*(t.double() for t in tensors.values()), *attributes.values())
            outputs = ["h", "C_next", "n_next", "m_next"]
        else:
            tensors, attributes = slstm_inputs(seed)
            reference = cells.slstm_cell(*(t.double() for t in tensors.values()), *attributes.values())
            outputs = ["hidden", "y_next", "c_next", "n_next", "m_next"]
        node = helper.make_node(name, list(tensors), outputs, domain=functions.DOMAIN, **attributes)
        value = lambda n, t: helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, list(t.shape))  # noqa: E731
        graph = helper.make_graph(
            [node], "g", [value(n, t) for n, t in tensors.items()],
            [value(n, t) for n, t in zip(outputs, reference, strict=True)],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", functions.OPSET), helper.make_opsetid(functions.DOMAIN, 1)]
        function = functions.step_functions()[name]
        model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        import onnxruntime as ort

        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        # float32 rounds m and the gates by 2^-24 of their size, which the exponentials turn into a relative error
        far = max(float(tensors[n].abs().max()) for n in ("m", "i", "f", "x") if n in tensors)
        results = session.run(None, {n: t.numpy() for n, t in tensors.items()})
        for output, got, expected in zip(outputs, results, reference, strict=True):
            assert np.isfinite(got).all(), (seed, output)
            scale = max(1.0, float(expected.abs().max()))
            tolerance = scale * (2e-6 + 4 * 2**-24 * far)
            if output == "h":
                tolerance *= mlstm_conditioning(tensors, attributes, reference)
            np.testing.assert_allclose(got, expected.numpy(), atol=tolerance, rtol=0, err_msg=f"{seed} {output}")


def mlstm_conditioning(tensors, attributes, reference):
    """How much cancellation in the normaliser n q amplifies rounding in h: sum |n q| over the denominator."""
    query = tensors["q"][:, 0].double() * attributes["q_scale"]
    _, _, n, m = reference
    denominator = (n * query).sum(-1).abs().maximum((-m).exp()) + attributes["eps"]
    return max(1.0, float(((n * query).abs().sum(-1) / denominator).max()))
