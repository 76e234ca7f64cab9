"""The ONNX file itself: valid, self-contained, named after the model, and honest about its states."""

import itertools
import json

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from support.cell_inputs import mlstm_inputs, slstm_inputs

from xlstm_export.bundle import Bundle, StateTensor
from xlstm_export.bundle.manifest import METADATA_KEY, parse_manifest
from xlstm_export.checkpoints.files.tensors import LazyTensor
from xlstm_export.errors import UserError
from xlstm_export.exporter.in_place import mark_in_place
from xlstm_export.exporter.linear_layers import join_linear_layers, mark_linear_layers
from xlstm_export.operators import eager, names, schemas

FAMILIES = ["a-mixed", "a-tied", "b-single", "c-single", "a-stack"]
STEP_FAMILIES = ["a-mixed", "a-stack", "b-single"]


@pytest.fixture(params=[*((f, "both") for f in FAMILIES), *((f, "step") for f in STEP_FAMILIES)], ids=" ".join)
def bundle(request, export_variant):
    name, mode = request.param
    return export_variant(name, mode=mode)[2]


def load(bundle):
    return onnx.load(bundle / "model.onnx", load_external_data=False)


def test_graph_passes_the_full_check_with_its_weights(bundle):
    onnx.checker.check_model(str(bundle / "model.onnx"), full_check=True)


def test_every_cell_is_one_node_with_its_definition_in_the_file(bundle):
    model = load(bundle)
    ours = [n for n in model.graph.node if n.domain == names.DOMAIN]
    cells = [n for n in ours if n.op_type in names.CELLS]
    blocks = Bundle.open(bundle).manifest.architecture["blocks"]
    assert [n.op_type for n in cells] == ["SLSTMCell" if b["kind"] == "slstm" else "MLSTMCell" for b in blocks]
    assert {f.name for f in model.functions} == {n.op_type for n in ours}
    for node in cells:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert attributes["plugin_version"] == b"1" and attributes["plugin_namespace"] == b"ai.xlstm"


def test_no_other_node_leaves_standard_onnx(bundle):
    assert {n.domain for n in load(bundle).graph.node} == {"", names.DOMAIN}


@pytest.mark.parametrize("name", [*FAMILIES, "a-bias"])
def test_every_projection_is_a_linear_layer(name, export_variant):
    nodes = load(export_variant(name)[2]).graph.node
    linear = [n for n in nodes if n.op_type in names.LINEARS]
    assert len(linear) > 2 and not any(n.op_type == "Gemm" for n in nodes)
    assert all(n.name.split("/")[-1] == n.op_type for n in linear), "they are named after their modules"
    assert any(n.op_type == names.LINEAR_WITH_BIAS for n in linear) == (name == "a-bias" or name[0] in "bc")


@pytest.mark.parametrize(
    "node, expected",
    [
        ("Gemm <transB: int = 1> (x, w)", names.LINEAR),
        ("Gemm <transB: int = 1, alpha: float = 1.0> (x, w, b)", names.LINEAR_WITH_BIAS),
        ("Gemm (x, turned)", None),
        ("Gemm <transB: int = 1, alpha: float = 2.0> (x, w)", None),
        ("Gemm <transB: int = 1, beta: float = 0.5> (x, w, b)", None),
        ("Gemm <transB: int = 1> (x, w, row)", None),
        ("Gemm <transB: int = 1> (x, w, one)", None),
        ("Gemm <transB: int = 1> (x, given)", None),
        ("Gemm <transB: int = 1> (w, x)", None),
        ("MatMul (x, turned)", None),
    ],
)
def test_only_products_with_weights_as_pytorch_stores_them_are_linear_layers(node, expected):
    text = (
        f'<ir_version: 10, opset_import: ["" : 21, "{names.DOMAIN}" : 1]> '
        "g (float[n, 2] x, float[3, 2] given) => (y) "
        "<float[3, 2] w = {1, 2, 3, 4, 5, 6}, float[2, 3] turned = {1, 2, 3, 4, 5, 6}, float[3] b = {1, 2, 3}, "
        f"float[1, 3] row = {{1, 2, 3}}, float[1] one = {{1}}> {{ y = {node} }}"
    )
    model = ir.from_proto(onnx.parser.parse_model(text))
    mark_linear_layers(model)
    (found,) = model.graph
    assert found.outputs[0] is model.graph.outputs[0]
    assert (found.op_type, found.domain) == ((expected, names.DOMAIN) if expected else (node.split()[0], ""))
    assert {key[1] for key in model.functions} == ({expected} if expected else set())


def test_layers_whose_outputs_the_graph_puts_side_by_side_are_one(export_variant):
    graph = load(export_variant("b-single")[2]).graph
    weights = {t.name: list(t.dims) for t in graph.initializer}
    # Gates are apart: quantisation leaves them alone.
    for name in ("q+k+v+ogate.weight", "igate+fgate.weight", "igate+fgate.bias"):
        assert f"blocks.0.mlstm.{name}" in weights, name
    assert not any(name.endswith((".q.weight", ".igate.bias", ".proj_up.weight")) for name in weights)
    heads = next(n for n in graph.node if n.op_type == names.MLSTM_HEADS)
    made = {n.output[0]: n.name for n in graph.node}
    inputs = ["blocks.0.mlstm.q+k+v+ogate/Linear", "blocks.0.mlstm.igate+fgate/LinearWithBias"]
    assert [made[name] for name in heads.input[:2]] == inputs
    assert not {"Split", "Concat"} & {n.op_type for n in graph.node}


def test_linked_weights_are_not_joined(export_variant):
    names = {t.name for t in load(export_variant("b-single", link_weights=True)[2]).graph.initializer}
    assert "blocks.0.mlstm.q.weight" in names and not any("+" in name for name in names)


def test_only_wide_layers_of_one_input_with_weights_of_their_own_are_joined():
    layers = {
        "m.a": ("x", 70),
        "m.gate": ("x", 3),
        "m.b": ("x", 80),
        "m.tied": ("x", 90),
        "n.c": ("z", 75),
        "n.d": ("z", 60),
    }
    values = {name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", 2]) for name in "xz"}
    nodes, tensors = [], {}
    for index, (name, (x, size)) in enumerate({**layers, "n.tied": ("z", 90)}.items()):
        weight = f"{'m.tied' if name == 'n.tied' else name}.weight"
        tensors[weight] = LazyTensor.of(torch.full((size, 2), float(index)))
        nodes.append(onnx.helper.make_node("Gemm", [x, weight], [name], transB=1))
        values[name] = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", size])
    weights = [onnx.numpy_helper.from_array(tensor.read().numpy(), name) for name, tensor in tensors.items()]
    outputs = [values[node.output[0]] for node in nodes]
    graph = onnx.helper.make_graph(nodes, "g", [values["x"], values["z"]], outputs, weights)
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid(names.DOMAIN, 1)]
    model = ir.from_proto(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10))
    mark_linear_layers(model)
    joined = join_linear_layers(model.graph, tensors)
    assert joined.keys() == {"m.a+b.weight", "m.gate.weight", "m.tied.weight", "n.c+d.weight"}
    assert joined["m.a+b.weight"].read()[:, 0].tolist() == [0.0] * 70 + [2.0] * 80
    assert [value.name for value in model.graph.outputs] == [node.output[0] for node in nodes]


@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_layers_are_one_in_the_order_in_which_their_outputs_stand_side_by_side(axis):
    """And not where they are put one under the other, nor where one of them is read elsewhere, too."""
    helper, tensors = onnx.helper, {f"{n}.weight": torch.full((40, 2), float(i)) for i, n in enumerate("abcd")}
    nodes = [helper.make_node("Gemm", ["x", f"{name}.weight"], [name], transB=1) for name in "abcd"]
    nodes += [helper.make_node("Concat", pair, [y], axis=axis) for pair, y in ((["b", "a"], "y"), (["c", "d"], "z"))]
    nodes.append(helper.make_node("Relu", ["d"], ["other"]))
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None, None]) for n in ("x", "y", "z", "other")]
    weights = [onnx.numpy_helper.from_array(tensor.numpy(), name) for name, tensor in tensors.items()]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(names.DOMAIN, 1)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:], weights), opset_imports=opsets, ir_version=10
    )
    given = ir.from_proto(model)
    mark_linear_layers(given)
    joined = join_linear_layers(given.graph, {name: LazyTensor.of(tensor) for name, tensor in tensors.items()})
    made = next(node for node in given.graph if node.outputs[0].name == "y")
    if axis == 0:
        assert joined.keys() == {"a+b+c+d.weight"} and made.op_type == "Concat"
    else:
        assert joined.keys() == {"b+a.weight", "c.weight", "d.weight"} and made.op_type == names.LINEAR
        assert joined["b+a.weight"].read()[:, 0].tolist() == [1.0] * 40 + [0.0] * 40


def test_forget_gate_is_softplus_never_log_of_sigmoid():
    for functions, cell in itertools.product((schemas.step_functions(), schemas.sequence_functions()), names.CELLS):
        function = functions[cell]
        bodies = [a.g.node for n in function.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH]
        operators = [n.op_type for nodes in (function.node, *bodies) for n in nodes]
        assert "Softplus" in operators and "Log" not in operators


def test_names_show_the_block_they_come_from(bundle):
    model = load(bundle)
    names = [n.name for n in model.graph.node]
    assert len(set(names)) == len(names)
    roots = ("embedding", "blocks.", "norm", "head", "model/")
    assert all(name.startswith(roots) for name in names), [n for n in names if not n.startswith(roots)]
    assert not any(n.metadata_props or n.doc_string for n in model.graph.node)


def test_states_are_named_pairs_in_the_order_of_the_manifest(bundle):
    model, manifest = load(bundle), Bundle.open(bundle).manifest
    lengths = [manifest.lengths.name] if manifest.lengths else []
    assert [v.name for v in model.graph.input] == [manifest.input.name, *(s.input for s in manifest.states), *lengths]
    assert [v.name for v in model.graph.output] == [manifest.output.name, *(s.output for s in manifest.states)]
    types = {v.name: v.type.tensor_type for v in (*model.graph.input, *model.graph.output)}
    tensors = [(t.name, t) for t in (manifest.input, manifest.lengths, manifest.output) if t]
    tensors += [(name, s) for s in manifest.states for name in (s.input, s.output)]
    for name, tensor in tensors:
        assert onnx.helper.tensor_dtype_to_np_dtype(types[name].elem_type) == tensor.dtype
        assert [d.dim_param or d.dim_value for d in types[name].shape.dim] == list(tensor.shape)


def test_modes_differ_in_the_sequence_axis_and_lengths_alone(export_variant):
    step, both = (Bundle.open(export_variant("a-mixed", mode=mode)[2]).manifest for mode in ("step", "both"))
    assert (step.input.shape, step.lengths, step.output.shape[:2]) == (("batch", 1), None, ("batch", 1))
    assert (both.input.shape, both.output.shape[:2]) == (("batch", "sequence"), ("batch", 1))
    assert both.lengths.shape == ("batch",) and both.lengths.dtype == "int32"
    prefill = export_variant("a-mixed", mode="prefill", logits="all")[2]
    assert Bundle.open(prefill).manifest.output.shape[:2] == ("batch", "sequence")
    assert step.states == both.states == Bundle.open(prefill).manifest.states


def test_logits_of_all_positions_of_a_step_are_refused(export_variant):
    with pytest.raises(UserError, match="leave --logits all out"):
        export_variant("a-mixed", mode="step", logits="all")


def test_manifest_in_the_metadata_is_the_file(bundle):
    props = {p.key: p.value for p in load(bundle).metadata_props}
    assert parse_manifest(json.loads(props[METADATA_KEY]), "metadata") == Bundle.open(bundle).manifest


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
        casts = [onnx.helper.get_attribute_value(n.attribute[0]) for n in function.node if n.op_type == "Cast"]
        integers = {onnx.TensorProto.INT32, onnx.TensorProto.INT64}  # positions are held against lengths
        assert {*casts} <= {onnx.TensorProto.FLOAT, *integers}


CELLS = {
    "MLSTMCell": (mlstm_inputs, eager.mlstm_cell, ["h", "C_next", "n_next", "m_next"]),
    "SLSTMCell": (slstm_inputs, eager.slstm_cell, ["hidden", "y_next", "c_next", "n_next", "m_next"]),
}


DEFINITIONS = [(name, "standard") for name in CELLS] + [("MLSTMCell", "linear-attention")]


def run_definition(name, function, tensors, attributes, definitions="standard"):
    """The outputs of a cell's definition in plain ONNX Runtime, by name."""
    outputs = CELLS[name][2]
    node = onnx.helper.make_node(name, list(tensors), outputs, domain=names.DOMAIN, **attributes)
    value = lambda n, t: onnx.helper.make_tensor_value_info(n, TYPES[t.dtype], list(t.shape))  # noqa: E731
    states = [tensors[n.removesuffix("_next")] for n in outputs[1:]]
    first = tensors["v"] if "v" in tensors else tensors["x"][:, :, 0]
    values = [value(n, t) for n, t in zip(outputs, [first, *states], strict=True)]
    graph = onnx.helper.make_graph([node], "g", [value(n, t) for n, t in tensors.items()], values)
    opsets = [onnx.helper.make_opsetid("", names.OPSET), onnx.helper.make_opsetid(names.DOMAIN, 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)
    schemas.use_definitions(model, definitions)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(outputs, session.run(None, {n: t.numpy() for n, t in tensors.items()}), strict=True))


TYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.int32: onnx.TensorProto.INT32,
}


def check_definition(name, definitions, seed, sequence):
    """Against the eager operator in float64; gates and stabilisers far out, zero and other states."""
    draw, operator, _ = CELLS[name]
    tensors, attributes = draw(seed, sequence or 1)
    exact = [t.double() for t in tensors.values()]
    if sequence is None:
        function, lengths = schemas.step_functions()[name], None
    else:
        function = schemas.sequence_functions()[name]
        lengths = torch.randint(0, sequence + 1, exact[0].shape[:1], generator=torch.Generator().manual_seed(seed))
        lengths = tensors["lengths"] = lengths.int()
    reference = operator(*exact, **attributes, lengths=lengths)
    # float32 rounds m and the gates by 2^-24 of their size, which the exponentials turn into a relative error
    far = max(float(tensors[n].abs().max()) for n in ("m", "i", "f", "x") if n in tensors)
    results = run_definition(name, function, tensors, attributes, definitions)
    for (output, got), expected in zip(results.items(), reference, strict=True):
        assert np.isfinite(got).all(), (seed, output)
        scale = max(1.0, float(expected.abs().max()))
        tolerance = scale * (2e-6 + 4 * 2**-24 * far) * (sequence or 1) ** 0.5
        if output == "h":
            tolerance *= mlstm_conditioning(tensors, attributes, lengths)
        np.testing.assert_allclose(got, expected.numpy(), atol=tolerance, rtol=0, err_msg=f"{seed} {output}")


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name, definitions", DEFINITIONS)
def test_definition_of_a_step_equals_the_eager_operator_on_extreme_inputs(name, definitions, seed):
    check_definition(name, definitions, seed, None)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("sequence", [1, 2, 7, 64, 200])
@pytest.mark.parametrize("name, definitions", DEFINITIONS)
def test_definition_of_a_sequence_equals_the_eager_operator_on_extreme_inputs(name, definitions, sequence, seed):
    check_definition(name, definitions, seed, sequence)


@pytest.mark.parametrize("sequence", [None, 7])
def test_definition_for_a_stored_memory_rounds_it_last(sequence):
    """All else, h included, is to the bit what the other definition gives from the same memory in float32."""
    functions = schemas.step_functions() if sequence is None else schemas.sequence_functions()
    tensors, attributes = mlstm_inputs(1, sequence or 1)
    if sequence is not None:
        tensors["lengths"] = torch.arange(tensors["m"].shape[0]).int() + 2
    stored = tensors | {"C": tensors["C"].half()}
    function = schemas.with_stored_memory(functions["MLSTMCell"])
    results = run_definition("MLSTMCell", function, stored, attributes)
    wide = stored | {"C": stored["C"].float()}
    expected = run_definition("MLSTMCell", functions["MLSTMCell"], wide, attributes)
    expected["C_next"] = expected["C_next"].astype(np.float16)
    for output, value in expected.items():
        np.testing.assert_array_equal(results[output], value, err_msg=output)
    eager_C = eager.mlstm_cell(*(stored[n] for n in "qkvifCnm"), **attributes, lengths=stored.get("lengths"))[1]
    np.testing.assert_allclose(results["C_next"], eager_C.numpy(), rtol=2**-9, atol=2**-9)  # a unit of float16 apart


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("mode", ["both", "step"])
def test_only_the_memories_are_stored_in_half_precision(export_variant, mode, dtype):
    bundle = Bundle.open(export_variant("a-mixed", mode=mode, state_dtype=dtype)[2])
    stored = {s.input: s.dtype for s in bundle.manifest.states}
    assert {name for name, kept in stored.items() if kept == dtype} == {n for n in stored if n.endswith("mlstm.C")}
    assert {*stored.values()} == {dtype, "float32"} and all(
        s.in_place for s in bundle.manifest.states if s.dtype == dtype
    )
    onnx.checker.check_model(str(bundle.model_file), full_check=True)
    wide = Bundle.open(export_variant("a-mixed", mode=mode)[2])
    small = sum(np.prod(s.sized(1)) for s in bundle.manifest.states if s.dtype == dtype)
    assert wide.manifest.state_bytes() - bundle.manifest.state_bytes() == 2 * small
    assert wide.model_hash == bundle.model_hash  # saved states move between them


def test_a_model_without_memories_refuses_to_store_them_in_half_precision(export_variant):
    with pytest.raises(UserError, match="--state-dtype float16 is for the memory of an mLSTM"):
        export_variant("a-all-slstm", state_dtype="float16")


def mlstm_conditioning(tensors, attributes, lengths):
    """How much cancellation in the normaliser n q amplifies rounding in h: sum |n q| over the denominator."""
    C, n, m = (tensors[s].double() for s in "Cnm")
    worst = 1.0
    for t in range(tensors["q"].shape[1]):
        q, k, v, i, f = (tensors[s][:, t : t + 1].double() for s in "qkvif")
        now = None if lengths is None else (lengths > t).int()
        _, C, n, m = eager.mlstm_cell(q, k, v, i, f, C, n, m, **attributes, lengths=now)
        query = q[:, 0] * attributes["q_scale"]
        denominator = (n * query).sum(-1).abs().maximum((-m).exp()) + attributes["eps"]
        worst = max(worst, float(((n * query).abs().sum(-1) / denominator).max()))
    return worst


@pytest.mark.parametrize("name, definitions", DEFINITIONS)
def test_padding_leaves_what_is_before_it_alone(name, definitions):
    """NaN beyond a row's length: outputs there are zero, states and the other outputs as without."""
    tensors, attributes = CELLS[name][0](2, 6)
    function = schemas.sequence_functions()[name]
    lengths = torch.arange(tensors["m"].shape[0]).remainder(6).int()
    clean = run_definition(name, function, tensors | {"lengths": lengths}, attributes, definitions)
    for tensor in (tensors[n] for n in "qkvifx" if n in tensors):
        for row, length in enumerate(lengths):
            tensor[row, length:] = torch.nan
    for output, value in run_definition(
        name, function, tensors | {"lengths": lengths}, attributes, definitions
    ).items():
        np.testing.assert_array_equal(value, clean[output], err_msg=output)
        if output in ("h", "hidden"):
            assert all((value[row, length:] == 0).all() for row, length in enumerate(lengths))


@pytest.mark.parametrize("definitions", ["standard", "linear-attention"])
def test_one_closed_forget_gate_costs_later_positions_no_precision(definitions):
    """Differences of cumulative sums would: after lf = -1e4, sums have a spacing of 1e-3."""
    tensors, attributes = mlstm_inputs(4, 64)
    tensors["i"].clamp_(-1, 1), tensors["f"].clamp_(2, 4)
    tensors["f"][:, 3] = -1e4
    lengths = torch.full(tensors["m"].shape[:1], 64, dtype=torch.int32)
    exact = eager.mlstm_cell(*(t.double() for t in tensors.values()), **attributes)
    function = schemas.sequence_functions()["MLSTMCell"]
    got = run_definition("MLSTMCell", function, tensors | {"lengths": lengths}, attributes, definitions)
    for name, expected in zip(("C_next", "n_next"), exact[1:], strict=False):
        np.testing.assert_allclose(got[name], expected, atol=2e-6 * float(expected.abs().max()), rtol=0)


def test_a_state_that_one_cell_alone_reads_and_writes_may_be_updated_in_place(export_variant) -> None:
    states = Bundle.open(export_variant("a-mixed")[2]).manifest.states
    assert states and all(state.in_place for state in states)


@pytest.mark.parametrize(
    "body, expected",
    [
        ("y, c.next = ai.xlstm.Cell (x, c)", True),
        ("s = Shape (c)  y, c.next = ai.xlstm.Cell (x, c)", True),
        ("y, c.next = ai.xlstm.Cell (x, c)  z = Neg (c.next)", True),
        ("y, c.next = ai.xlstm.Cell (x, c)  z = Neg (c)", False),
        ("y, d = ai.xlstm.Cell (x, c)  c.next = Neg (d)", False),
        ("y, d = ai.xlstm.Cell (x, c)  y2, c.next = ai.xlstm.Cell (x, c)", False),
        ("y, c.next = ai.xlstm.Cell (c, c)", False),
        ("y, c.next = Cell (x, c)", False),
        ("c.next = Neg (x)", False),
    ],
)
def test_any_other_reader_or_writer_keeps_a_state_from_it(body: str, expected: bool) -> None:
    head = 'ir_version: 10, opset_import: ["" : 21, "ai.xlstm" : 1]'
    text = f"<{head}> g (float[2] x, float[2] c) => (float[2] c.next) {{ {body} }}".replace("c.next", "c_next")
    model = ir.from_proto(onnx.parser.parse_model(text))
    (state,) = mark_in_place(model.graph, [StateTensor("c", "c_next", "float32", (2,))])
    assert state.in_place == expected
