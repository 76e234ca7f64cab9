"""`inspect` reports what is really in a bundle or checkpoint, and reads no weights for it."""

import io
import json
import math
import os
import shutil

import onnx
import pytest
from rich.console import Console
from support.small_networks import policy_network, summing_network, window_network

from xlstm_export.bundle import Bundle
from xlstm_export.errors import UserError
from xlstm_export.inspection import inspect_bundle, inspect_path, render, to_json
from xlstm_export.inspection.checkpoint import inspect_checkpoint
from xlstm_export.operators.schemas import sequence_functions


def text_of(inspection, width=200):
    console = Console(width=width, file=io.StringIO())
    console.print(render(inspection))
    return console.file.getvalue()


@pytest.mark.parametrize("name", ["a-mixed", "a-tied", "b-single", "c-single", "a-stack"])
def test_bundle_numbers_are_those_of_the_upstream_model(name, export_variant):
    model, _, bundle = export_variant(name)
    found, manifest = inspect_bundle(Bundle.open(bundle)), Bundle.open(bundle).manifest
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.weight_bytes == 4 * found.parameters
    assert found.state_bytes == 4 * sum(math.prod(s.shape[1:]) for s in manifest.states)
    assert found.token_bytes == found.read_bytes + 2 * found.state_bytes
    assert found.family == manifest.family and not found.missing_files
    assert sum(len(g.indices) for g in found.dimensions.blocks) == len(manifest.architecture["blocks"])


def test_step_reads_an_embedding_only_where_the_head_is_tied_to_it(export_variant):
    for name, table in (("a-mixed", True), ("a-tied", False), ("a-stack", False)):
        found = inspect_bundle(Bundle.open(export_variant(name)[2]))
        spared = 4 * found.dimensions.vocab_size * found.dimensions.embedding_dim if table else 0
        assert found.weight_bytes - found.read_bytes == spared


def test_half_precision_bundle_counts_its_bytes_by_dtype(export_variant):
    bundle = export_variant("a-mixed", "float16")[2]
    found = inspect_bundle(Bundle.open(bundle))
    graph = onnx.load(bundle / "model.onnx", load_external_data=False).graph
    lengths = [int(e.value) for t in graph.initializer for e in t.external_data if e.key == "length"]
    assert found.weight_bytes == sum(lengths) < 4 * found.parameters
    assert found.dtype == "float16"


def test_operators_functions_and_tensors_are_those_of_the_graph(export_variant):
    bundle = export_variant("a-mixed")[2]
    found, manifest = inspect_bundle(Bundle.open(bundle)), Bundle.open(bundle).manifest
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    kinds = [b["kind"] for b in manifest.architecture["blocks"]]
    assert sum(found.operators.values()) == len(model.graph.node)
    assert found.operators["ai.xlstm::MLSTMCell"] == kinds.count("mlstm")
    calls = {"MLSTMCell": kinds.count("mlstm"), "SLSTMCell": kinds.count("slstm"), "CausalConv": len(kinds)}
    calls |= dict.fromkeys(("MLSTMProjections", "SkipGatedHeadNorm"), kinds.count("mlstm"))
    calls |= dict.fromkeys(("SLSTMProjections", "HeadNorm", "GEGLU"), kinds.count("slstm"))
    calls |= {"AddLayerNorm": len(kinds) + kinds.count("slstm")}  # one for each norm but the first
    calls |= dict.fromkeys(("ValidTokens", "LastPositions"), 1)
    linear = {name: found.operators[name] for name in found.operators if name.startswith("ai.xlstm::Linear")}
    assert sum(linear.values()) >= 2 * len(kinds) and "Gemm" not in found.operators
    assert {f.name: (f.nodes, f.calls) for f in found.functions} == {
        f"ai.xlstm::{name}": (len(sequence_functions()[name].node), count) for name, count in calls.items()
    } | {name: (1, count) for name, count in linear.items()}
    assert sorted(t.name for t in found.tensors if t.role != "output") == sorted(i.name for i in model.graph.input)
    assert [t.next_name for t in found.tensors if t.role == "state"] == [s.output for s in manifest.states]


def test_weights_are_not_read(export_variant, tmp_path):
    bundle = shutil.copytree(export_variant("b-single")[2], tmp_path / "bundle")
    expected = inspect_bundle(Bundle.open(bundle)).weight_bytes
    os.truncate(bundle / "model.weights", 0)
    assert inspect_bundle(Bundle.open(bundle)).weight_bytes == expected
    (bundle / "model.weights").unlink()
    found = inspect_bundle(Bundle.open(bundle))
    assert found.missing_files == ("model.weights",)
    assert "model.weights: the bundle was not copied whole" in text_of(found)


@pytest.mark.parametrize("name", ["a-mixed", "a-tied", "b-fused", "c-shards", "a-stack"])
def test_checkpoint_numbers_are_those_of_the_upstream_model(name, export_variant):
    model, checkpoint, bundle = export_variant(name)
    found = inspect_checkpoint(checkpoint)
    assert found.parameters == sum(found.parameters_by_part.values()) == sum(p.numel() for p in model.parameters())
    assert found.state_bytes == Bundle.open(bundle).manifest.state_bytes()
    assert (
        found.plans[0].dtype == "float32"
        and found.plans[0].weight_bytes == inspect_bundle(Bundle.open(bundle)).weight_bytes
    )
    assert found.family == Bundle.open(bundle).manifest.family


def test_plan_is_what_the_export_makes(export_variant):
    _, checkpoint, bundle = export_variant("c-bfloat16", "bfloat16", link_weights=True)
    found = inspect_checkpoint(checkpoint)
    plan = {p.dtype: p for p in found.plans}["bfloat16"]
    exported = inspect_bundle(Bundle.open(bundle))
    assert found.dtypes == {"bfloat16": found.parameters}
    assert plan.weight_bytes == exported.weight_bytes
    written = (bundle / "model.weights").stat().st_size  # with padding: tensors start on multiples of 64 bytes
    unlinked = plan.weight_bytes - plan.linkable_bytes
    assert (
        unlinked
        <= written
        <= unlinked + 64 * len(onnx.load(bundle / "model.onnx", load_external_data=False).graph.initializer)
    )


def test_path_is_taken_for_what_it_is(export_variant, tmp_path):
    _, checkpoint, bundle = export_variant("b-single")
    assert inspect_path(bundle).kind == "bundle" and inspect_path(checkpoint).kind == "checkpoint"
    with pytest.raises(UserError, match="nothing at"):
        inspect_path(tmp_path / "absent")
    with pytest.raises(UserError):
        inspect_path(tmp_path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda bundle: (bundle / "model.onnx").unlink(), "lacks model.onnx"),
        (lambda bundle: os.truncate(bundle / "model.onnx", 999), "is not an ONNX file, or is damaged"),
        (lambda bundle: edit(bundle, architecture={}), "its architecture is incomplete"),
        (lambda bundle: edit(bundle, format_version=99), "has format version 99"),
    ],
)
def test_damaged_bundle_is_one_message(harm, message, export_variant, tmp_path):
    bundle = shutil.copytree(export_variant("b-single")[2], tmp_path / "bundle")
    harm(bundle)
    with pytest.raises(UserError, match=message):
        inspect_path(bundle)


def edit(bundle, **changes):
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | changes))


def test_json_holds_everything_and_reads_back(export_variant):
    _, checkpoint, bundle = export_variant("a-mixed")
    found = inspect_bundle(Bundle.open(bundle))
    data = json.loads(to_json(found))
    assert data["kind"] == "bundle" and data["token_bytes"] == found.token_bytes
    assert data["operators"] == found.operators and len(data["tensors"]) == len(found.tensors)
    assert json.loads(to_json(inspect_checkpoint(checkpoint)))["plans"][0]["dtype"] == "float32"


def test_tables_name_what_matters(export_variant):
    _, checkpoint, bundle = export_variant("a-mixed")
    found = inspect_bundle(Bundle.open(bundle))
    text = text_of(found)
    for word in (
        "xlstm",
        "vocabulary 97",
        "dynamic",
        f"{found.parameters:,}",
        "ai.xlstm::SLSTMCell",
        "tokens",
        "mlstm.C",
    ):
        assert word in text, word
    groups = {group.kind: group.indices for group in found.dimensions.blocks}
    for kind, indices in groups.items():
        assert kind in text and str(indices[0]) in text
    text = text_of(inspect_checkpoint(checkpoint))
    for word in ("parameters", "mlstm blocks", "embedding", "--dtype bfloat16"):
        assert word in text, word


@pytest.mark.parametrize("write", [summing_network, policy_network, window_network])
def test_network_shows_all_inputs_and_outputs(write, tmp_path):
    bundle = Bundle.open(write(tmp_path / "b"))
    found, manifest = inspect_bundle(bundle), bundle.manifest
    names = [*(t.name for t in manifest.inputs), *(["lengths"] if manifest.lengths else [])]
    names += [*(t.name for t in manifest.outputs), *(s.input for s in manifest.states)]
    assert [row.name for row in found.tensors] == names
    text = text_of(found)
    assert f"{manifest.mode}: " in text and "tokenizer" not in text
    assert all(name in text for name in names)
    assert ("a position moves" in text) == (manifest.mode != "window")
    data = json.loads(to_json(found))
    assert data["dimensions"] is None and len(data["tensors"]) == len(names)


def test_size_that_the_run_tells_is_shown_as_unknown(tmp_path):
    assert "batch×?×3" in text_of(inspect_bundle(Bundle.open(window_network(tmp_path / "b"))))


def test_cells_and_states_of_a_network_go_by_the_users_modules(export_variant, tmp_path):
    """A language model's graph, called a network whose stack is `encoder`."""
    source = export_variant("a-mixed")[2]
    bundle = shutil.copytree(source, tmp_path / "b")
    manifest = json.loads((bundle / "manifest.json").read_text())
    graph = onnx.load(bundle / "model.onnx", load_external_data=False)
    renamed = json.loads(json.dumps(manifest).replace('"blocks.', '"encoder.blocks.'))
    for node in graph.graph.node:
        node.name = f"encoder.{node.name}"
        for names in (node.input, node.output):
            names[:] = [f"encoder.{n}" if n.startswith("blocks.") and "/" not in n else n for n in names]
    renamed |= {"family": "network", "architecture": {}, "vocab_size": None}
    renamed["outputs"][0]["name"] = "scores"
    (bundle / "manifest.json").write_text(json.dumps(renamed))
    onnx.save(graph, bundle / "model.onnx")
    found = inspect_bundle(Bundle.open(bundle))
    kinds = [block["kind"] for block in manifest["architecture"]["blocks"]]
    assert [c.kind for c in found.cells] == [{"mlstm": "MLSTMCell", "slstm": "SLSTMCell"}[kind] for kind in kinds]
    assert found.cells[0].states == ("encoder.blocks.0.mlstm.C", "encoder.blocks.0.mlstm.n", "encoder.blocks.0.mlstm.m")
    text = text_of(found)
    assert "2: encoder.blocks.0.mlstm, encoder.blocks.2.mlstm" in text and "encoder.blocks.{0, 2}.mlstm.C" in text
