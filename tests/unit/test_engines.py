"""Everything about engines that is decided before and after TensorRT runs."""

import json
from dataclasses import asdict

import numpy as np
import onnx
import onnxruntime
import pytest
from support.small_networks import policy_network, summing_network, window_network

from xlstm_export.bundle import Bundle
from xlstm_export.bundle.engine_record import (
    TensorProfile,
)
from xlstm_export.engines import EngineRequest, build_engine
from xlstm_export.engines.progress import PhaseTree
from xlstm_export.engines.rewrite import plugin_needs_stripping, with_products_as_sums, without_functions
from xlstm_export.engines.targets import (
    BatchRange,
    Profile,
    batch_range,
    check_dtype,
    engine_name,
    input_profiles,
    max_chunk_of,
    parse_batch,
    parse_targets,
    parse_version,
)
from xlstm_export.engines.worker import BuildJob, read_graph
from xlstm_export.errors import UserError
from xlstm_export.nvidia.flavours import INSTALL, import_flavour, load_plugins, without_places
from xlstm_export.operators.names import CELLS

# What to build for


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("sm89",), ("sm89",)),
        (("sm120,sm86", "8.9"), ("sm86", "sm89", "sm120")),
        (("SM_75", "75", "12.1"), ("sm75", "sm121")),
        (("current",), ("current",)),
        ((), ("sm86", "sm89", "sm120")),
    ],
)
def test_rtx_targets_are_read_in_every_spelling(given, expected):
    assert parse_targets("tensorrt-rtx", given) == expected


@pytest.mark.parametrize(
    ("runtime", "given", "message"),
    [
        ("tensorrt-rtx", ("sm90",), "does not build for sm90: it knows sm75"),
        ("tensorrt-rtx", ("ada",), "'ada' is not a compute capability"),
        ("tensorrt-rtx", ("current,sm89",), "cannot be combined with sm89"),
        ("tensorrt", ("sm89",), "builds for the GPU it runs on, not for sm89"),
        ("onnxruntime", (), "cannot build for runtime 'onnxruntime'"),
    ],
)
def test_impossible_targets_are_refused(runtime, given, message):
    with pytest.raises(UserError, match=message):
        parse_targets(runtime, given)


def test_tensorrt_builds_for_this_gpu():
    assert parse_targets("tensorrt", ()) == parse_targets("tensorrt", ("current",)) == ("current",)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_turing_takes_float16_only(dtype):
    with pytest.raises(UserError, match=f"no {dtype} matrix product for sm75"):
        check_dtype("tensorrt-rtx", ("sm75", "sm89"), dtype)
    check_dtype("tensorrt-rtx", ("sm75",), "float16")
    check_dtype("tensorrt-rtx", ("sm80",), dtype)


def test_batch_ranges_are_read_in_both_spellings():
    assert parse_batch("4") == BatchRange(4, 4, 4) and str(parse_batch("4")) == "4"
    assert parse_batch("1:2:16") == BatchRange(1, 2, 16) and str(parse_batch("1:2:16")) == "1-16"


@pytest.mark.parametrize("text", ["", "0", "1:8", "2:1:8", "1:9:8", "0:1:8", "one", "1:1:8:9", "-1"])
def test_impossible_batches_are_refused(text):
    with pytest.raises(UserError, match="batch"):
        parse_batch(text)


def test_profile_covers_every_input_of_a_dynamic_bundle_and_nothing_of_a_fixed_one(export_variant):
    dynamic = Bundle.open(export_variant("a-mixed")[2]).manifest
    decode, prefill = input_profiles(dynamic, batch_range(dynamic, "1:2:4"), 64)
    assert (decode.name, prefill.name) == ("decode", "prefill")
    inputs = {dynamic.input.name: dynamic.input, **{s.input: s for s in dynamic.states}, "lengths": dynamic.lengths}
    for profile, positions in ((decode, (1, 1, 1)), (prefill, (1, 64, 64))):
        assert [t.name for t in profile.tensors] == list(inputs)
        for tensor in profile.tensors:
            shapes = [
                (b, s) if tensor.name == "tokens" else (b, *inputs[tensor.name].shape[1:])
                for b, s in zip((1, 2, 4), positions, strict=True)
            ]
            assert [tensor.min, tensor.opt, tensor.max] == shapes
    fixed = Bundle.open(export_variant("a-mixed", batch=3)[2]).manifest
    assert batch_range(fixed, None) == batch_range(fixed, "3") == BatchRange(3, 3, 3)
    for profile, positions in zip(input_profiles(fixed, batch_range(fixed, None), 64), (1, 64), strict=True):
        assert [(t.name, t.max) for t in profile.tensors] == [("tokens", (3, positions))]
    with pytest.raises(UserError, match="fixed batch 3, not 1:1:8"):
        batch_range(fixed, "1:1:8")


def test_profiles_follow_the_mode(export_variant):
    step = Bundle.open(export_variant("a-mixed", mode="step", batch=2)[2]).manifest
    assert max_chunk_of(step, ("sm89",), None) is None
    assert input_profiles(step, batch_range(step, None), None) == (Profile("decode", ()),)
    with pytest.raises(UserError, match="mode `step`, one position a pass"):
        max_chunk_of(step, ("sm89",), 64)
    prefill = Bundle.open(export_variant("a-mixed", mode="prefill", logits="all")[2]).manifest
    assert [p.name for p in input_profiles(prefill, batch_range(prefill, None), 64)] == ["prefill"]
    assert max_chunk_of(prefill, ("sm89",), None) == 256 and max_chunk_of(prefill, ("sm89",), 64) == 64
    assert max_chunk_of(prefill, ("sm75", "sm89"), None) == 32


def test_profiles_of_a_network_cover_all_its_inputs(tmp_path):
    manifest = Bundle.open(summing_network(tmp_path / "b")).manifest
    decode, prefill = input_profiles(manifest, BatchRange(1, 2, 4), 16)
    assert [t.name for t in prefill.tensors] == ["x", "w", "scale", "net.total", "lengths"]
    assert prefill.tensors[1] == TensorProfile("w", (1, 2, 1), (2, 2, 16), (4, 2, 16))
    assert decode.tensors[0] == TensorProfile("x", (1, 1, 3), (2, 1, 3), (4, 1, 3))
    assert prefill.tensors[2] == TensorProfile("scale", (1, 1), (2, 1), (4, 1))


def test_policy_has_one_profile_of_single_steps(tmp_path):
    manifest = Bundle.open(policy_network(tmp_path / "b")).manifest
    (profile,) = input_profiles(manifest, BatchRange(1, 1, 4), max_chunk_of(manifest, ("sm89",), None))
    assert profile.name == "decode"
    assert profile.tensors[0] == TensorProfile("observation", (1, 3), (1, 3), (4, 3))


def test_windows_have_one_profile_of_the_length_that_is_said_or_fixed(tmp_path):
    manifest = Bundle.open(window_network(tmp_path / "any")).manifest
    with pytest.raises(UserError, match="whole sequences of any length .*say with --max-chunk"):
        max_chunk_of(manifest, ("sm89",), None)
    (profile,) = input_profiles(manifest, BatchRange(1, 2, 4), max_chunk_of(manifest, ("sm89",), 50))
    assert profile.name == "window"
    assert profile.tensors[0] == TensorProfile("x", (1, 1, 3), (2, 50, 3), (4, 50, 3))
    fixed = Bundle.open(window_network(tmp_path / "fixed", length=8)).manifest
    with pytest.raises(UserError, match="windows of one size .*leave --max-chunk out"):
        max_chunk_of(fixed, ("sm89",), 8)
    (profile,) = input_profiles(fixed, BatchRange(1, 2, 4), max_chunk_of(fixed, ("sm89",), None))
    assert profile.tensors[0] == TensorProfile("x", (1, 8, 3), (2, 8, 3), (4, 8, 3))
    nothing_dynamic = Bundle.open(window_network(tmp_path / "still", batch=2, length=8)).manifest
    assert input_profiles(nothing_dynamic, BatchRange(2, 2, 2), None) == (Profile("window", ()),)


def test_engine_names_tell_engines_of_a_bundle_apart():
    what = ("tensorrt-rtx", "1.7.1.116", ("sm86", "sm120"), "float16", BatchRange(1, 1, 8))
    assert engine_name(*what, None) == "tensorrt-rtx-1.7-sm86-sm120-float16-batch1-8.engine"
    assert engine_name(*what, 256) == "tensorrt-rtx-1.7-sm86-sm120-float16-batch1-8-chunk256.engine"


def test_versions_compare_as_numbers():
    assert parse_version("10.15.1.29") == (10, 15, 1, 29) and parse_version("11.0rc1") == (11, 0)
    assert plugin_needs_stripping("10.3.0") and plugin_needs_stripping("10.9.0.34")
    assert not plugin_needs_stripping("10.15.0") and not plugin_needs_stripping("11.4.1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plugins": "lib.so"}, "has no plugin layers"),
        ({"version_compatible": True}, "no version-compatible engines"),
        ({"hardware_compatible": True}, "name the GPUs with --target"),
    ],
)
def test_options_that_tensorrt_rtx_lacks_are_refused(options, message, export_variant):
    with pytest.raises(UserError, match=message):
        build_engine(Bundle.open(export_variant("b-single")[2]), EngineRequest("tensorrt-rtx", ("sm89",), **options))


# Changes to the graph


def test_stripping_takes_the_definitions_and_leaves_nodes_weights_and_the_bundle(export_variant):
    bundle = export_variant("a-mixed")[2]
    model = read_graph(bundle / "model.onnx")
    stripped = without_functions(model)
    kept = {f.name for f in stripped.functions}
    assert kept == {f.name for f in model.functions} - {*CELLS} and {*CELLS} < {f.name for f in model.functions}
    assert stripped.graph == model.graph
    assert {o.domain for o in stripped.opset_import} == {"", "ai.xlstm"}
    external = [t for t in stripped.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert external, "weights must stay where they are, not come into memory"
    for tensor in external:  # and are still found from the bundle's folder
        length = int(next(e.value for e in tensor.external_data if e.key == "length"))
        onnx.external_data_helper.load_external_data_for_tensor(tensor, str(bundle))
        assert len(tensor.raw_data) == length


def test_stripping_keeps_functions_of_others():
    model = onnx.ModelProto()
    model.functions.add(name="Other", domain="elsewhere")
    model.functions.add(name="MLSTMCell", domain="ai.xlstm")
    assert [f.name for f in without_functions(model).functions] == ["Other"]


def products(model):
    """The matrix products of a graph in float32, of its functions and of their loops."""
    floats = {v.name for v in model.graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    nodes = [n for f in model.functions for n in f.node]
    nodes += [n for node in nodes for a in node.attribute if a.type == onnx.AttributeProto.GRAPH for n in a.g.node]
    nodes += [n for n in model.graph.node if n.output[0] in floats]
    return [n for n in nodes if n.op_type == "MatMul"]


@pytest.mark.parametrize("mode", ["step", "both"])
@pytest.mark.parametrize("name", ["a-mixed", "b-single"])
def test_products_as_sums_are_the_same_numbers_without_matrix_products(name, mode, export_variant):
    bundle = export_variant(name, mode=mode)[2]
    model = read_graph(bundle / "model.onnx")
    summed = with_products_as_sums(model)
    assert products(model) and not products(summed)
    onnx.external_data_helper.load_external_data_for_model(summed, str(bundle))
    onnx.checker.check_model(summed, full_check=True)
    manifest, random = Bundle.open(bundle).manifest, np.random.default_rng(0)
    positions = 1 if mode == "step" else 5
    feeds = {manifest.input.name: random.integers(0, manifest.vocab_size, (3, positions))}
    feeds |= {} if mode == "step" else {"lengths": np.array([5, 0, 3], np.int32)}
    states = {s.input: np.zeros(s.sized(3), np.float32) for s in manifest.states}
    sessions = [
        onnxruntime.InferenceSession(m, providers=["CPUExecutionProvider"])
        for m in (str(bundle / "model.onnx"), summed.SerializeToString())
    ]
    _, *warm = sessions[0].run(None, feeds | states)  # states as a model has them: others make it ill-conditioned
    outputs = [session.run(None, feeds | dict(zip(states, warm, strict=True))) for session in sessions]
    for expected, got in zip(*outputs, strict=True):  # another order of summation over at most 64 terms
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


# Progress


def test_progress_only_grows_and_ends_at_one():
    tree, seen = PhaseTree(), []
    tree.start("build", None, 2)
    tree.start("optimise", "build", 4)
    seen += [tree.step("optimise", i) for i in range(4)]
    seen += [tree.finish("optimise"), tree.step("build", 0)]
    tree.start("tactics", "build", 1)
    tree.start("inner", "tactics", 10)
    seen += [tree.step("inner", 4), tree.finish("inner"), tree.finish("tactics"), tree.finish("build")]
    assert seen == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_progress_survives_what_it_was_not_told():
    tree = PhaseTree()
    assert tree.step("unknown", 3) == 0.0 and tree.finish("unknown") == 0.0
    tree.start("empty", "unknown parent", 0)
    assert tree.step("empty", 7) == 1.0


def test_request_reaches_the_builder_unchanged(export_variant):
    manifest = Bundle.open(export_variant("a-mixed")[2]).manifest
    profiles = input_profiles(manifest, BatchRange(1, 2, 4), 64)
    request = BuildJob("tensorrt", "/m", "/e", ("current",), profiles, "/p", True, False, False, None)
    assert BuildJob.parse(json.dumps(asdict(request))) == request


def test_messages_of_tensorrt_come_without_places_in_its_sources():
    message = (
        "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([myelin_graph.h:1295: attachExceptionMsgToGraph] "
        "MyelinCheckException: value.h:884: CHECK(is_const()) failed. In compileGraph at /_src/codeGenerator.cpp:2012)"
    )
    assert without_places(message) == (
        "IBuilder::buildSerializedNetwork: Error Code 1: Myelin (MyelinCheckException: value.h:884: "
        "CHECK(is_const()) failed.)"
    )


# What is missing here


def test_missing_runtime_says_what_to_install(export_variant, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for runtime in ("tensorrt", "tensorrt-rtx"):
        with pytest.raises(UserError) as error:
            build_engine(Bundle.open(export_variant("b-single")[2]), EngineRequest(runtime))
        assert INSTALL[runtime] in str(error.value)


def test_second_flavour_is_not_loaded_into_the_same_process(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", object())
    with pytest.raises(UserError, match="tensorrt-rtx is loaded in this process already"):
        import_flavour("tensorrt")


class Registry:
    """`IPluginRegistry`'s two methods that are used."""

    def __init__(self, creators_after_loading, loads=True, creators=()):
        self.after, self.loads, self.creators, self.loaded = creators_after_loading, loads, set(creators), []

    def get_creator(self, name, version, namespace):
        return object() if (name, version, namespace) in self.creators else None

    def load_library(self, path):
        self.loaded.append(path)
        self.creators |= set(self.after if self.loads else ())
        return object() if self.loads else None


OURS = ("MLSTMCell", "1", "ai.xlstm")


def test_plugins_are_loaded_once_and_checked(tmp_path):
    library = tmp_path / "lib.so"
    with pytest.raises(UserError, match="no plugin library at"):
        load_plugins(Registry([OURS]), "11.4", [], library)
    library.touch()
    registry = Registry([OURS])
    load_plugins(registry, "11.4", [], library)
    load_plugins(registry, "11.4", [], library)
    assert registry.loaded == [str(library)]
    with pytest.raises(UserError, match="cannot load the plugin library .*: undefined symbol"):
        load_plugins(Registry([OURS], loads=False), "11.4", ["undefined symbol: x"], library)
    with pytest.raises(UserError, match="is not the plugin library of xlstm-export"):
        load_plugins(Registry([("Other", "1", "")]), "11.4", [], library)
