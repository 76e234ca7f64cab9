"""TensorRT-RTX builds an engine from every kind of bundle, ahead of time; none of it needs a GPU.

Engines cannot be loaded without a GPU: what is checked here is that they are built, what their sidecars say, and that
a failed build leaves nothing.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict

import onnx
import pytest
import yaml
from support.small_networks import policy_network, window_network

from xlstm_export.bundle import Bundle, Engine
from xlstm_export.bundle.engine_record import read_record, sidecar_of
from xlstm_export.checkpoints.random_weights import random_checkpoint
from xlstm_export.checksum import sha256
from xlstm_export.engines import EngineRequest, build, build_engine
from xlstm_export.engines.rewrite import without_functions
from xlstm_export.errors import UserError
from xlstm_export.exporter import ExportOptions, export_bundle
from xlstm_export.progress import no_progress
from xlstm_export.quantization import QuantizeOptions
from xlstm_export.quantization.quantize import quantize_bundle

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs TensorRT-RTX: pip install tensorrt-rtx"
)

FAMILIES = ["a-mixed", "a-all-slstm", "a-stack", "b-single", "c-single"]


@pytest.fixture
def copy_bundle(export_variant, tmp_path):
    """A bundle of this test's own, which it may harm."""

    def copy(name, dtype="float32", batch=None, **options):
        return shutil.copytree(export_variant(name, dtype, batch, **options)[2], tmp_path / "bundle")

    return copy


def build_in(bundle, stage=no_progress, **options):
    engine = build_engine(Bundle.open(bundle), EngineRequest("tensorrt-rtx", **options), stage)
    return engine.path, engine.record


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_engine_is_built_ahead_of_time_with_a_true_sidecar(name, dtype, copy_bundle):
    bundle = copy_bundle(name, dtype)
    manifest = Bundle.open(bundle).manifest
    engine, record = build_in(bundle, targets=("sm86", "sm120"), batch="1:2:4", max_chunk=64)
    assert engine.stat().st_size == record.engine_bytes > (bundle / "model.weights").stat().st_size
    assert read_record(engine) == record
    assert sorted(p.name for p in engine.parent.iterdir()) == [engine.name, sidecar_of(engine).name]
    assert record.engine.sha256 == sha256(engine) and Bundle.open(bundle).fits(record)
    assert (record.runtime, record.targets, record.gpu) == ("tensorrt-rtx", ("sm86", "sm120"), None)
    assert record.dtype == dtype
    assert record.batch == (1, 2, 4) and record.plugins is None
    assert not record.options.tf32, "TF32 would round the factors of float32 products to ten bits"
    tensors = {t.name: t for t in record.tensors}
    expected = {manifest.input.name: ("input", manifest.input), manifest.output.name: ("output", manifest.output)}
    expected |= {s.input: ("input", s.spec) for s in manifest.states}
    expected |= {s.output: ("output", s.spec) for s in manifest.states}
    expected |= {"lengths": ("input", manifest.lengths)}
    assert tensors.keys() == expected.keys()
    for tensor_name, (mode, spec) in expected.items():
        tensor = tensors[tensor_name]
        assert (tensor.mode, tensor.dtype) == (mode, spec.dtype)
        assert tensor.shape == tuple(-1 if isinstance(extent, str) else extent for extent in spec.shape)
        if mode == "output":
            assert tensor.profiles == ()
            continue
        for profile, positions in zip(tensor.profiles, ((1, 1, 1), (1, 64, 64)), strict=True):
            shapes = [spec.sized(b, s) for b, s in zip((1, 2, 4), positions, strict=True)]
            assert list(asdict(profile).values()) == [tensor_name, *shapes]
    assert (record.profiles, record.max_chunk) == (("decode", "prefill"), 64) and "chunk64.engine" in engine.name


@pytest.mark.parametrize(
    ("write", "max_chunk", "profiles", "shapes"),
    [
        (policy_network, None, ("decode",), {"observation": ((1, 3), (2, 3), (4, 3))}),
        (
            window_network,
            24,
            ("window",),
            {"x": ((1, 1, 3), (2, 24, 3), (4, 24, 3)), "mask": ((1, 1), (2, 24), (4, 24))},
        ),
        (
            lambda folder: window_network(folder, length=8),
            None,
            ("window",),
            {"x": ((1, 8, 3), (2, 8, 3), (4, 8, 3)), "mask": ((1, 8), (2, 8), (4, 8))},
        ),
    ],
    ids=["policy", "windows", "windows of one length"],
)
def test_engine_of_a_network_has_the_profile_of_its_mode(write, max_chunk, profiles, shapes, tmp_path):
    bundle = write(tmp_path / "bundle")
    manifest = Bundle.open(bundle).manifest
    engine, record = build_in(bundle, targets=("sm89",), batch="1:2:4", max_chunk=max_chunk)
    assert (record.profiles, record.max_chunk) == (profiles, max_chunk) and read_record(engine) == record
    tensors = {tensor.name: tensor for tensor in record.tensors}
    assert {t.name for t in manifest.outputs} <= tensors.keys()
    for name, expected in shapes.items():
        (profile,) = tensors[name].profiles
        assert (profile.min, profile.opt, profile.max) == expected
    assert Bundle.open(bundle).engines() == [Engine(engine, record)]


def test_two_profiles_share_one_copy_of_the_weights(tmp_path):
    config = {"embedding_dim": 512, "num_heads": 4, "num_blocks": 4, "vocab_size": 20_000}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    export_bundle(random_checkpoint(tmp_path / "config.yaml", 0), tmp_path / "bundle")
    _, record = build_in(tmp_path / "bundle", targets=("sm89",))
    weights = (tmp_path / "bundle" / "model.weights").stat().st_size
    assert record.profiles == ("decode", "prefill") and weights < record.engine_bytes < 1.3 * weights


@pytest.mark.parametrize(
    "weights, target, share", [("int4", "sm86", 0.25), ("int8", "sm86", 0.4), ("float8", "sm89", 0.6)]
)
def test_engines_of_quantised_bundles_hold_codes(weights, target, share, tmp_path):
    """Beside codes of 4 or 8 bits of 32, and the embedding (a quarter, which stays as it is by the side of float8)."""
    config = {"embedding_dim": 512, "num_heads": 4, "num_blocks": 2, "vocab_size": 20_000}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    source = export_bundle(
        random_checkpoint(tmp_path / "config.yaml", 0), tmp_path / "bundle", ExportOptions(mode="step")
    )
    bundle = quantize_bundle(source, tmp_path / weights, QuantizeOptions(weights, method="rtn"))
    _, record = build_in(bundle.path, targets=(target,))
    before, after = (sum(b.weight_sizes.values()) for b in (source, bundle))
    assert after < record.engine_bytes < share * before


@pytest.mark.parametrize(("heads", "block"), [(11, 2), (1, 11)])
def test_model_as_narrow_as_one_group_of_projections_is_built(heads, block, tmp_path):
    """TensorRT-RTX 1.7 fails inside itself on a batch of one matrix."""
    mlstm = {"num_heads": heads, "proj_factor": 1.0, "round_proj_up_to_multiple_of": 1, "qkv_proj_blocksize": block}
    config = {"embedding_dim": 22, "num_blocks": 1, "vocab_size": 97, "mlstm_block": {"mlstm": mlstm}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    export_bundle(random_checkpoint(tmp_path / "config.yaml", 0), tmp_path / "bundle")
    assert build_in(tmp_path / "bundle", targets=("sm89",))[0].is_file()


@pytest.mark.parametrize("mode", ["step", "prefill"])
def test_engine_of_one_mode_has_one_profile(mode, copy_bundle):
    _, record = build_in(copy_bundle("a-mixed", mode=mode), targets=("sm89",))
    assert record.profiles == ({"step": "decode", "prefill": "prefill"}[mode],)
    assert record.max_chunk == (None if mode == "step" else 256)


@pytest.mark.parametrize("name", ["a-mixed", "b-single"])
def test_fixed_batch_bundle_gives_an_engine_without_a_batch_range(name, copy_bundle):
    bundle = copy_bundle(name, batch=2)
    engine, record = build_in(bundle, targets=("sm89",))
    assert record.batch == (2, 2, 2) and "batch2-" in engine.name
    assert [t.name for t in record.tensors if t.profiles] == ["tokens"]
    assert all(t.shape[0] == 2 for t in record.tensors)


def test_fixed_batch_bundle_of_steps_has_nothing_dynamic(copy_bundle):
    _, record = build_in(copy_bundle("a-mixed", batch=2, mode="step"), targets=("sm89",))
    assert record.profiles == ("decode",) and not any(t.profiles for t in record.tensors)


PARSE = """
import sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
network = trt.Builder(logger).create_network(0)
parser = trt.OnnxParser(network, logger)
print(parser.parse_from_file(sys.argv[1]), [parser.get_error(i).desc() for i in range(parser.num_errors)])
"""


@pytest.mark.parametrize("name", ["a-mixed", "a-bias", "c-single"])
def test_parser_takes_the_file_as_it_is(name, export_variant):
    """As for `trtexec`, which does not go through `build`. In a process of its own: it loads TensorRT-RTX."""
    command = [sys.executable, "-c", PARSE, export_variant(name)[2] / "model.onnx"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "True []"


@pytest.mark.parametrize("name", ["a-mixed", "b-single"])
def test_turing_gets_float16_engines_with_products_as_sums(name, copy_bundle):
    """TensorRT-RTX has no float32 matrix product on sm75, and the cells' definitions hold some."""
    _, record = build_in(copy_bundle(name, "float16"), targets=("sm75",))
    assert record.options.products_as_sums and record.targets == ("sm75",)


def test_build_shows_its_progress_loads_no_tensorrt_here_and_is_found_again(copy_bundle):
    bundle, stages = copy_bundle("b-single"), {}

    def stage(title, total):
        return stages.setdefault((title, total), []).append

    engine, record = build_in(bundle, targets=("sm89",), batch="2", stage=stage)
    assert [title for title, _ in stages] == ["Reading the model", "Building the engine", "Writing the engine"]
    for (_, total), amounts in stages.items():
        assert sum(amounts) == total and all(amount >= 0 for amount in amounts)
    assert len(stages["Building the engine", 1000]) > 5, "the build reports no progress of its own"
    assert not {"tensorrt", "tensorrt_rtx"} & sys.modules.keys(), "the builder belongs into a process of its own"
    assert Bundle.open(bundle).engines() == [Engine(engine, record)]
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert Bundle.open(bundle).fits(record)
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"source": {"path": "other", "sha256": "0" * 64}}))
    assert not Bundle.open(bundle).fits(record), "an engine of other weights would be run"


def harm_graph(bundle):
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    (bundle / "model.onnx").write_bytes(without_functions(model).SerializeToString())


def truncate_weights(bundle):
    os.truncate(bundle / "model.weights", 1000)


def remove_weights(bundle):
    (bundle / "model.weights").unlink()


def truncate_graph(bundle):
    os.truncate(bundle / "model.onnx", 999)


def widen_a_state(bundle):
    """The manifest and the graph disagree: the profile asks for a shape that the graph does not have."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["states"][0]["shape"][-1] += 1
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (harm_graph, r"cannot parse .*model\.onnx:\n  node blocks\.0\.mlstm/MLSTMCell \(MLSTMCell\): "),
        (truncate_weights, r"model\.weights is truncated: it ends before its tensor "),
        (remove_weights, r"lacks model\.weights: it was not copied whole"),
        (truncate_graph, r"model\.onnx is not an ONNX file, or is damaged"),
        (widen_a_state, r"could not build the engine:\n  .*blocks\.0\.mlstm\.C"),
    ],
)
def test_failed_build_says_why_and_leaves_the_bundle_as_it_was(harm, message, copy_bundle):
    bundle = copy_bundle("a-mixed")
    harm(bundle)
    before = sorted(p.name for p in bundle.iterdir())
    with pytest.raises(UserError, match=message):
        build_in(bundle, targets=("sm89",))
    assert sorted(p.name for p in bundle.iterdir()) == before


def test_failed_build_keeps_the_engine_of_before(copy_bundle):
    bundle = copy_bundle("a-mixed")
    engine, record = build_in(bundle, targets=("sm89",))
    harm_graph(bundle)
    with pytest.raises(UserError, match="cannot parse"):
        build_in(bundle, targets=("sm89",))
    assert read_record(engine) == record and sha256(engine) == record.engine.sha256
    assert len(list(engine.parent.iterdir())) == 2


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os, sys; print('last words', file=sys.stderr, flush=True); os.abort()", r"SIGABRT.*\n  last words"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"SIGKILL.*ran out of memory"),
        ("import sys; sys.exit(3)", r"exit code 3"),
    ],
)
def test_builder_that_dies_is_a_message_not_a_crash(program, message, copy_bundle, monkeypatch):
    bundle = copy_bundle("b-single")
    monkeypatch.setattr(build.own_process, "command", lambda function: [sys.executable, "-c", program])
    with pytest.raises(UserError, match=message):
        build_in(bundle, targets=("sm89",))
    assert not (bundle / "engines").exists()
