"""Sessions of a user's own networks: several inputs and outputs by name, in the modes `both`, `step` and `window`."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from support.small_networks import WIDTH, policy_network, summing_network, window_network, write_bundle

from xlstm_export.bundle import Bundle, StateTensor, TensorSpec
from xlstm_export.errors import ErrorKind, UserError
from xlstm_export.exporter.in_place import mark_in_place
from xlstm_export.runtime import open_session


@pytest.fixture(scope="module")
def summing(tmp_path_factory):
    return Bundle.open(summing_network(tmp_path_factory.mktemp("summing") / "bundle"))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return Bundle.open(policy_network(tmp_path_factory.mktemp("policy") / "bundle"))


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    return Bundle.open(window_network(tmp_path_factory.mktemp("window") / "bundle"))


def draw(batch, positions, seed=0):
    random = np.random.default_rng(seed)
    return {
        "x": random.standard_normal((batch, positions, WIDTH), np.float32),
        "w": random.integers(-3, 4, (batch, 2, positions)),
        "scale": random.standard_normal((batch, 1), np.float32),
    }


def expected_sums(inputs):
    return np.cumsum(inputs["x"] * inputs["w"][:, 0, :, None], 1)


def test_chunks_give_every_output_that_the_whole_sequence_gives(summing):
    inputs = draw(2, 12)
    sums, at = expected_sums(inputs), 0
    with open_session(summing, batch=2) as session:
        for size in (1, 1, 5, 2, 3):
            part = inputs | {"x": inputs["x"][:, at : at + size], "w": inputs["w"][:, :, at : at + size]}
            outputs, at = session.run(part), at + size
            assert list(outputs) == ["sums", "last", "scaled"]
            np.testing.assert_allclose(outputs["sums"], sums[:, at - size : at], atol=1e-5)
            np.testing.assert_allclose(outputs["last"], sums[:, at - 1], atol=1e-5)
            turned = outputs["sums"].transpose(0, 2, 1) * inputs["scale"][..., None]
            np.testing.assert_allclose(outputs["scaled"], turned, atol=1e-6)


def test_rows_advance_by_their_own_lengths_and_a_reset_row_starts_anew(summing):
    inputs = draw(3, 4)
    weighted = inputs["x"] * inputs["w"][:, 0, :, None]
    with open_session(summing, batch=3) as session:
        outputs = session.run(inputs, [4, 0, 2])
        np.testing.assert_allclose(session.read_states()["net.total"][1], 0)
        np.testing.assert_allclose(outputs["last"][2], weighted[2, :2].sum(0), atol=1e-5)
        session.reset(0)
        again = session.run(inputs, np.array([1, 1, 1]))["last"]
        np.testing.assert_allclose(again[0], weighted[0, 0], atol=1e-5)
        np.testing.assert_allclose(again[2], weighted[2, :2].sum(0) + weighted[2, 0], atol=1e-5)


def test_states_of_a_network_are_saved_and_loaded(summing, tmp_path):
    inputs = draw(2, 3)
    with open_session(summing, batch=2) as session:
        session.run(inputs)
        session.save(tmp_path / "saved")
        following = session.run(inputs)
    with open_session(summing, batch=2) as other:
        other.load(tmp_path / "saved")
        for name, value in other.run(inputs).items():
            np.testing.assert_array_equal(value, following[name])


def test_network_without_a_time_axis_steps(policy):
    observations = np.random.default_rng(0).standard_normal((5, 2, WIDTH)).astype(np.float32)
    memory = np.zeros((2, WIDTH))
    with open_session(policy, batch=2) as session:
        for observation in observations:
            memory = 0.5 * memory + observation
            outputs = session.run({"observation": observation})
            np.testing.assert_allclose(outputs["output_0"], memory[:, :2], atol=1e-6)
            np.testing.assert_allclose(outputs["output_1"], memory.sum(1, keepdims=True), atol=1e-6)
        session.reset(1)
        after = session.run({"observation": observations[0]})["output_0"]
    np.testing.assert_allclose(after[1], observations[0, 1, :2], atol=1e-6)
    np.testing.assert_allclose(after[0], (0.5 * memory + observations[0])[0, :2], atol=1e-6)


def test_windows_of_every_length_give_outputs_of_the_size_that_the_run_tells(window):
    random = np.random.default_rng(0)
    with open_session(window, batch=2) as session:
        for positions in (5, 8, 5, 2):
            x = random.standard_normal((2, positions, WIDTH), np.float32)
            mask = np.ones((2, positions), np.int64)
            mask[1, positions // 2 :] = 0
            outputs = session.run({"x": x, "mask": mask})
            np.testing.assert_allclose(outputs["mean"][0], x[0].mean(0), atol=1e-6)
            np.testing.assert_allclose(outputs["mean"][1], x[1, : positions // 2].mean(0), atol=1e-6)
            half = positions // 2
            np.testing.assert_allclose(outputs["pairs"], x[:, : 2 * half].reshape(2, half, 2, WIDTH).mean(2), atol=1e-6)
        assert session.read_states() == {}


def test_outputs_belong_to_the_caller(summing, window):
    inputs = draw(1, 4)
    with open_session(summing) as session:
        first = session.run(inputs)
        kept = {name: value.copy() for name, value in first.items()}
        session.run(draw(1, 4, seed=1))
    for name, value in first.items():
        np.testing.assert_array_equal(value, kept[name])


@pytest.mark.parametrize(
    ("change", "lengths", "message"),
    [
        (lambda i: i.pop("w"), None, r"inputs: w missing. This bundle takes x float32 \(2, positions, 3\), w int64"),
        (lambda i: i.update(extra=i["x"]), None, "inputs: extra unknown"),
        (lambda i: i.update(y=i.pop("x")), None, "inputs: x missing; y unknown"),
        (lambda i: i.update(x=i["x"][:1]), None, r"x has shape \(1, 4, 3\), expected \(2, 4, 3\)"),
        (lambda i: i.update(x=i["x"][..., :2]), None, r"x has shape \(2, 4, 2\), expected \(2, 4, 3\)"),
        (lambda i: i.update(x=i["x"][0]), None, r"x has shape \(4, 3\), expected"),
        (lambda i: i.update(x=np.float32(1)), None, r"x has shape \(\), expected \(2, positions, 3\)"),
        (lambda i: i.update(scale=i["scale"][:, 0]), None, r"scale has shape \(2,\), expected \(2, 1\)"),
        (lambda i: i.update(x=i["x"][:, :0]), None, r"x has shape \(2, 0, 3\), expected \(2, positions, 3\)"),
        (lambda i: i.update(w=i["w"][:, :, :3]), None, "disagree on the number of positions: x has 4, w has 3"),
        (lambda i: i.update(w=i["w"] * 0.5), None, "w is float64, expected int64"),
        (lambda i: None, [5, 1], "lengths are .5, 1., expected 2 numbers from 0 to 4"),
        (lambda i: None, [1], "expected 2 numbers"),
        (lambda i: None, [-1, 1], "expected 2 numbers"),
    ],
)
def test_malformed_pass_is_one_message_and_leaves_the_states(change, lengths, message, summing):
    with open_session(summing, batch=2) as session:
        session.run(draw(2, 3))
        before = session.read_states()
        inputs = draw(2, 4)
        change(inputs)
        with pytest.raises(UserError, match=message) as error:
            session.run(inputs, lengths)
        assert error.value.kind is ErrorKind.argument
        np.testing.assert_array_equal(session.read_states()["net.total"], before["net.total"])


def test_lengths_have_no_place_in_steps_and_windows(policy, window):
    with open_session(policy, batch=2) as session:
        observation = {"observation": np.zeros((2, WIDTH), np.float32)}
        session.run(observation, [1, 1])
        with pytest.raises(UserError, match="mode `step` has no idle rows"):
            session.run(observation, [1, 0])
    with open_session(window, batch=2) as session:
        inputs = {"x": np.zeros((2, 4, WIDTH), np.float32), "mask": np.ones((2, 4), np.int32)}
        with pytest.raises(UserError, match="mode `window` takes whole sequences of one length"):
            session.run(inputs, [4, 2])


def test_number_that_is_no_int32_is_refused(window):
    with open_session(window) as session:
        inputs = {"x": np.zeros((1, 2, WIDTH), np.float32), "mask": np.array([[1, 2**31]])}
        with pytest.raises(UserError, match="mask holds 2147483648, which is no int32"):
            session.run(inputs)


def test_pass_that_the_graph_cannot_take_is_one_message(tmp_path):
    x, y = (TensorSpec(name, "float32", ("batch", "sequence", 2)) for name in "xy")
    nodes = [helper.make_node("Add", ["x", "four"], ["y"])]
    write_bundle(tmp_path / "b", "window", [x], [y], [], nodes, {"four": np.zeros((1, 4, 2), np.float32)})
    with open_session(Bundle.open(tmp_path / "b")) as session:
        assert session.run({"x": np.zeros((1, 4, 2), np.float32)})["y"].shape == (1, 4, 2)
        with pytest.raises(UserError, match="failed in a pass over 5 positions") as error:
            session.run({"x": np.zeros((1, 5, 2), np.float32)})
        assert error.value.kind is ErrorKind.runtime


@pytest.mark.parametrize("method", ["feed", "step", "prefill"])
def test_methods_of_language_models_say_that_a_network_goes_by_names(method, summing, policy, window):
    for bundle in (summing, policy, window):
        with open_session(bundle) as session, pytest.raises(UserError, match=f"`{method}` is for one input.*`run`"):
            getattr(session, method)(np.zeros((1, 1), np.float32))


def test_states_of_other_shapes_or_names_are_refused(summing):
    with open_session(summing, batch=2) as session:
        with pytest.raises(UserError, match="state net.total is missing"):
            session.write_states({})
        with pytest.raises(UserError, match=r"net.total has shape \(1, 3\), expected \(2, 3\)"):
            session.write_states({"net.total": np.zeros((1, WIDTH))})
        with pytest.raises(UserError, match="row 2 is not one of 0 to 1"):
            session.reset(2)


def test_language_model_runs_by_names_as_it_feeds(export_variant):
    bundle = Bundle.open(export_variant("a-mixed")[2])
    tokens = np.arange(8).reshape(2, 4)
    with open_session(bundle, batch=2) as one, open_session(bundle, batch=2) as other:
        np.testing.assert_array_equal(one.feed(tokens), other.run({"tokens": tokens})["logits"])


def cells(name, inputs, outputs):
    return helper.make_node(name, inputs, outputs, domain="ai.xlstm")


def test_states_are_updated_in_place_only_where_one_cell_alone_reads_and_writes_them():
    names = ["own", "read", "branch", "crossed", "other"]
    nodes = [
        cells("MLSTMCell", ["q", "own", "read", "branch"], ["h", "own.next", "read.next", "branch.next"]),
        cells("SLSTMCell", ["q", "crossed"], ["k", "other.next"]),
        helper.make_node("Identity", ["read"], ["seen"]),
        helper.make_node("Identity", ["other"], ["crossed.next"]),
    ]
    inside = [helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, ["batch", 2])]
    branch = helper.make_graph([helper.make_node("Identity", ["branch"], ["b"])], "then", [], inside)
    nodes.append(helper.make_node("If", ["q"], ["chosen"], then_branch=branch, else_branch=branch))
    taken, given = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 2]) for name in group]
        for group in (["q", *names], ["h", "seen", "chosen", *(f"{name}.next" for name in names)])
    )
    graph = ir.from_proto(helper.make_model(helper.make_graph(nodes, "g", taken, given))).graph
    states = [StateTensor(name, f"{name}.next", "float32", ("batch", 2)) for name in names]
    assert [state.input for state in mark_in_place(graph, states) if state.in_place] == ["own"]
