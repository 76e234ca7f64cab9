"""Triton's own states: what `--backend onnxruntime` and `tensorrt` write, held against the servers' rules.

Not run on a server with these back ends yet: `support.implicit_state` replays their rules over ONNX Runtime.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from onnx import helper
from support.engine_files import place, record_for
from support.implicit_state import Request, Server, kind, read_config
from support.native import onnxruntime_operators
from support.small_networks import WIDTH, policy_network, summing_network, window_network, write_bundle

from xlstm_export.bundle import Bundle
from xlstm_export.bundle.engine_record import EngineTensor
from xlstm_export.bundle.manifest import StateTensor, TensorSpec
from xlstm_export.errors import UserError
from xlstm_export.native.locate import FOLDER_VARIABLE, ONNXRUNTIME_LIBRARY, TENSORRT_ONLOAD, TENSORRT_PLUGINS
from xlstm_export.runtime import open_session
from xlstm_export.triton import write_repository
from xlstm_export.triton.config import paired, pairs_in_order

ROUNDING = 1e-4  # of logits of a few units: rows of a batch are multiplied together, a row alone by itself


def written(bundle, tmp_path, **options):
    """The model's folder in a new repository."""
    return write_repository(Bundle.open(bundle), tmp_path / "repository", "onnxruntime", **options).model


def ask(sequence, tokens, lengths=None, **flags):
    tokens = np.array([tokens], np.int64)
    return Request(sequence, {"tokens": tokens, "lengths": np.array([[lengths or tokens.shape[1]]], np.int32)}, **flags)


@pytest.fixture(scope="module")
def model(demo_bundle, tmp_path_factory):
    return written(demo_bundle, tmp_path_factory.mktemp("triton"))


@pytest.fixture(scope="module")
def server(model):
    return Server(model)


def test_interleaved_sequences_get_what_each_gets_alone(server, demo_bundle):
    """Prompts in chunks, then tokens one by one; sequences begin and end at different times and share passes."""
    random = np.random.default_rng(0)
    texts = {name: random.integers(0, 256, 40) for name in (3, 1, 2)}
    got: dict[int, list[np.ndarray]] = {name: [] for name in texts}
    plan = [{3: (0, 16)}, {1: (0, 16), 3: (16, 32)}, {2: (0, 16)}, {1: (16, 32), 2: (16, 32)}]
    plan += [{name: (at, at + 1) for name in texts} for at in range(32, 40)]
    for step in plan:
        requests = [ask(n, texts[n][a:b], start=a == 0, end=b == 40) for n, (a, b) in step.items()]
        for request, answer in zip(requests, server.execute(requests), strict=True):
            got[request.sequence].append(answer["logits"][0, 0])
    for name, text in texts.items():
        with open_session(Bundle.open(demo_bundle)) as session:
            alone = [session.feed(text[None, a:b], np.array([b - a]))[0, 0] for a, b in [(0, 16), (16, 32)]]
            alone += [session.step(text[None, at : at + 1])[0, 0] for at in range(32, 40)]
        np.testing.assert_allclose(got[name], alone, atol=ROUNDING, rtol=0)
    with pytest.raises(AssertionError, match="START"):
        server.execute([ask(1, [5])])


def test_padding_makes_prompts_of_different_lengths_share_a_pass(server):
    one, other = server.execute([ask(1, [7, 8, 9, 0, 0], 3, start=True), ask(2, [1, 2, 3, 4, 5], start=True)])
    (alone,) = server.execute([ask(1, [7, 8, 9], start=True)])
    np.testing.assert_allclose(one["logits"], alone["logits"], atol=ROUNDING, rtol=0)
    assert np.abs(other["logits"] - alone["logits"]).max() > 0.1


def test_sequence_that_starts_again_begins_with_zeros(server):
    (first,) = server.execute([ask(1, [7, 8, 9], start=True)])
    (again,) = server.execute([ask(1, [7, 8, 9], start=True)])
    (going_on,) = server.execute([ask(1, [7, 8, 9])])
    np.testing.assert_array_equal(first["logits"], again["logits"])
    assert np.abs(going_on["logits"] - again["logits"]).max() > 0.1


def test_without_zeros_said_a_sequence_would_begin_with_memory_as_it_was_found(model, tmp_path):
    """What the replayed rule is there for: without `initial_state`, numbers are none."""
    spoilt = tmp_path / "model"
    os.makedirs(spoilt)
    os.symlink(model / "1", spoilt / "1")
    text = re.sub(r"    initial_state \{.*?\n    \}\n", "", (model / "config.pbtxt").read_text(), flags=re.DOTALL)
    (spoilt / "config.pbtxt").write_text(text)
    (answer,) = Server(spoilt).execute([ask(1, [7, 8, 9], start=True)])
    assert np.isnan(answer["logits"]).any()


def two_memories(folder, names):
    """y (B, 3) = first + 10 second; first' = first + x, second' = second - x."""
    states = [StateTensor(name, f"{name}.next", "float32", ("batch", WIDTH)) for name in names]
    first, second = names
    nodes = [
        helper.make_node("Mul", [second, "ten"], ["scaled"]),
        helper.make_node("Add", [first, "scaled"], ["y"]),
        helper.make_node("Add", [first, "x"], [f"{first}.next"]),
        helper.make_node("Sub", [second, "x"], [f"{second}.next"]),
    ]
    x, y = TensorSpec("x", "float32", ("batch", WIDTH)), TensorSpec("y", "float32", ("batch", WIDTH))
    return write_bundle(folder, "step", [x], [y], states, nodes, {"ten": np.array(10, np.float32)})


@pytest.mark.parametrize("names", [("net.c", "net.c-slow"), ("net", "net.b"), ("net.a", "net.b")])
def test_states_are_paired_whatever_their_names(names, tmp_path):
    """`net.c` stands before `net.c-slow`, but `net.c-slow.next` before `net.c.next`."""
    bundle = two_memories(tmp_path / "bundle", names)
    model = written(bundle, tmp_path)
    kept = pairs_in_order(Bundle.open(bundle).manifest.states)
    assert kept == (names == ("net.a", "net.b")) == ((model / "1/model.onnx").read_bytes() == _graph(bundle))
    server, x = Server(model), np.array([[1, 2, 3]], np.float32)
    got = [server.execute([Request(1, {"x": x}, start=step == 0)])[0]["y"] for step in range(3)]
    np.testing.assert_array_equal(np.concatenate(got), [0 * x[0], -9 * x[0], -18 * x[0]])


def _graph(bundle):
    return (bundle / "model.onnx").read_bytes()


def test_names_as_they_are_would_be_paired_wrongly(tmp_path):
    """The rule bites: the same graph, unrenamed, adds where it should subtract."""
    bundle = two_memories(tmp_path / "bundle", ("net.c", "net.c-slow"))
    model = written(bundle, tmp_path)
    (model / "1/model.onnx").write_bytes(_graph(bundle))
    text = (model / "config.pbtxt").read_text()
    (model / "config.pbtxt").write_text(re.sub(r'"next\.([^"]+)"', r'"\1.next"', text))
    server, x = Server(model), np.array([[1, 2, 3]], np.float32)
    got = [server.execute([Request(1, {"x": x}, start=step == 0)])[0]["y"] for step in range(2)]
    np.testing.assert_array_equal(got[1], 9 * x)


def test_renamed_states_pair_in_whatever_order_their_names_are():
    random = np.random.default_rng(0)
    alphabet = list("ab.-_ /0~Aé")
    names = {"".join(random.choice(alphabet, size)) for size in random.integers(1, 6, 400)}
    states = tuple(StateTensor(name, f"{name}.next", "float32", ("batch", 1)) for name in names)
    assert not pairs_in_order(states)
    assert pairs_in_order(tuple(map(paired, states)))


@pytest.mark.parametrize("batch", [None, 2])
def test_networks_are_served_by_their_own_names(batch, tmp_path):
    """Several inputs, outputs with and without positions; a fixed batch goes as a whole, without Triton's batching."""
    server = Server(written(summing_network(tmp_path / "bundle", batch), tmp_path))
    assert server.config.max_batch_size == (0 if batch else 64)
    rows = batch or 1
    lengths = np.full((rows,) if batch else (rows, 1), 2, np.int32)
    x, w = np.ones((rows, 2, WIDTH), np.float32), np.full((rows, 2, 2), 3, np.int64)
    inputs = {"x": x, "w": w, "scale": np.full((rows, 1), 0.5, np.float32), "lengths": lengths}
    first, then = (server.execute([Request(9, inputs, start=start)])[0] for start in (True, False))
    np.testing.assert_array_equal(first["sums"], np.broadcast_to([[[3], [6]]], (rows, 2, WIDTH)))
    np.testing.assert_array_equal(then["last"], np.full((rows, WIDTH), 12))
    np.testing.assert_array_equal(then["scaled"][:, 0], np.broadcast_to([4.5, 6], (rows, 2)))


def test_single_steps_take_no_lengths(tmp_path):
    server = Server(written(policy_network(tmp_path / "bundle"), tmp_path))
    seen = {"observation": np.ones((1, WIDTH), np.float32)}
    values = [server.execute([Request(1, seen, start=step == 0)])[0]["output_1"].item() for step in range(3)]
    assert values == [3, 4.5, 5.25] and len(server.config.input) == 1


def test_windows_have_no_sequences(tmp_path):
    config = Server(written(window_network(tmp_path / "bundle"), tmp_path)).config
    assert config.HasField("dynamic_batching") and not config.HasField("sequence_batching")


def test_states_in_half_precision_are_said_so(export_variant, tmp_path):
    server = Server(written(export_variant("b-single", state_dtype="float16")[2], tmp_path))
    kinds = {state.input_name.rpartition(".")[2]: kind(state) for state in server.config.sequence_batching.state}
    assert kinds["C"] == "TYPE_FP16" and kinds["m"] == "TYPE_FP32"
    (answer,) = server.execute([ask(1, [3, 4], start=True)])
    assert np.isfinite(answer["logits"]).all()


def test_state_of_one_number_a_row_is_refused(tmp_path):
    x, y = TensorSpec("x", "float32", ("batch", 1)), TensorSpec("y", "float32", ("batch",))
    nodes = [
        helper.make_node("Squeeze", ["x", "one"], ["flat"]),
        helper.make_node("Add", ["count", "flat"], ["count.next"]),
        helper.make_node("Identity", ["count.next"], ["y"]),
    ]
    state = StateTensor("count", "count.next", "float32", ("batch",))
    bundle = write_bundle(tmp_path / "bundle", "step", [x], [y], [state], nodes, {"one": np.array([1])})
    with pytest.raises(UserError, match="count is one number a row"):
        written(bundle, tmp_path)
    assert not any((tmp_path / "repository").iterdir())


def test_kernels_are_found_by_their_name_alone(demo_bundle, tmp_path):
    """As the command that is printed says: in a folder of LD_LIBRARY_PATH."""
    repository = write_repository(
        Bundle.open(demo_bundle), tmp_path / "a repository", "onnxruntime", custom_ops=onnxruntime_operators()
    )
    assert list(read_config(repository.model).model_operations.op_library_filename) == [ONNXRUNTIME_LIBRARY]
    program = (
        "import onnxruntime as ort, sys; options = ort.SessionOptions()\n"
        f"options.register_custom_ops_library({ONNXRUNTIME_LIBRARY!r})\n"
        "ort.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider'])\n"
    )
    (tmp_path / "tritonserver").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" $MODEL\n')
    (tmp_path / "tritonserver").chmod(0o755)
    environment = os.environ | {"MODEL": "kjv/1/model.onnx", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = [
        subprocess.run(["sh", "-c", command], cwd=repository.model.parent, env=environment, capture_output=True)
        for command in (repository.command, "tritonserver")
    ]
    assert done[0].returncode == 0, done[0].stderr
    assert done[1].returncode != 0 and ONNXRUNTIME_LIBRARY in done[1].stderr.decode()


@pytest.fixture
def engine_bundle(export_variant, tmp_path):
    """A bundle with an engine that no GPU is needed for: nothing runs it here."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for file in export_variant("b-single")[2].iterdir():
        if file.is_file():
            (bundle / file.name).write_bytes(file.read_bytes())
    (bundle / "engines").mkdir()
    (bundle / "engines" / TENSORRT_PLUGINS).write_bytes(b"plugins")
    return bundle


def test_engine_is_laid_out_with_its_plugins_and_both_profiles(engine_bundle, tmp_path, monkeypatch):
    record = record_for(engine_bundle)
    place(
        engine_bundle, replace(record, tensors=(*record.tensors, EngineTensor("lengths", "input", "int32", (-1,), ())))
    )
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "lib"))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / TENSORRT_ONLOAD).write_bytes(b"registers")
    repository = write_repository(Bundle.open(engine_bundle), tmp_path / "repository", "tensorrt", name="small")
    files = {path.name: path.read_bytes() for path in (repository.model / "1").iterdir()}
    assert files == {"model.plan": b"plan", TENSORRT_PLUGINS: b"plugins", TENSORRT_ONLOAD: b"registers"}
    assert f"--backend-config=tensorrt,plugins={repository.model}/1/{TENSORRT_ONLOAD}" in repository.command
    config = read_config(repository.model)
    assert (config.name, config.backend, config.max_batch_size) == ("small", "tensorrt", 8)
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [("tokens", [-1]), ("lengths", [1])]
    assert config.input[1].HasField("reshape") and not config.input[1].reshape.shape
    assert all(state.initial_state[0].zero_data for state in config.sequence_batching.state)
    assert len(config.sequence_batching.state) == len(Bundle.open(engine_bundle).manifest.states)


def test_tensorrt_needs_an_engine_that_fits_and_whose_states_pair(engine_bundle, tmp_path):
    def refused(bundle, match):
        with pytest.raises(UserError, match=match):
            write_repository(Bundle.open(bundle), tmp_path / "repository", "tensorrt")
        assert not (tmp_path / "repository").exists() or not any((tmp_path / "repository").iterdir())

    refused(engine_bundle, "holds no engine for tensorrt. Build one with")
    place(engine_bundle, record_for(engine_bundle, batch=(2, 4, 8)))
    refused(engine_bundle, "takes batches 2 to 8.*Build it with --batch 1:2:8")
    bundle = two_memories(tmp_path / "other", ("net.c", "net.c-slow"))
    (bundle / "engines").mkdir()
    place(bundle, record_for(bundle, profiles=("decode",), max_chunk=None, tensors=()))
    refused(bundle, "net.c-slow.next would become net.c. An engine's names cannot be changed")
