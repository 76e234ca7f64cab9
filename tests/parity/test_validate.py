"""`validate` passes bundles that are right, and catches and places the faults of those that are not."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console
from support.paths import DEMO
from support.upstream_models import VARIANTS, here

from xlstm_export.bundle import Bundle
from xlstm_export.checkpoints import Checkpoint, open_checkpoint
from xlstm_export.checkpoints.random_weights import random_tensors
from xlstm_export.errors import UserError
from xlstm_export.exporter.write import export_bundle
from xlstm_export.runtime.onnxruntime import OnnxRuntimeSession
from xlstm_export.validation import ValidationOptions, render, validate


def compare(bundle, checkpoint, **options):
    return validate(Bundle.open(bundle), open_checkpoint(checkpoint), ValidationOptions(**options))


@pytest.mark.parametrize("name", ["a-mixed", "b-single", "c-single"])
def test_float32_bundle_of_every_family_passes_after_512_steps(name, export_variant):
    _, checkpoint, bundle = export_variant(name)
    report = compare(bundle, checkpoint, steps=512, batch=2)
    assert report.passed, [v.describe() for v in report.verdicts if not v.passed]
    assert [run.name for run in report.runs] == ["zeros", "warm", "reset", "prefill", "forward", "drift"]
    assert report.runs[-1].steps == 512
    contracts = [v for v in report.verdicts if v.limit.kind == "contract"]
    assert len(contracts) == 6 and all(v.limit.value < 1e-4 for v in contracts)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", here("a-mixed", "b-single", "c-single", "d-wide-heads", "e-folder"))
def test_half_precision_bundle_of_every_family_passes(name, dtype, export_variant):
    _, checkpoint, bundle = export_variant(name, dtype)
    report = compare(bundle, checkpoint, steps=64, batch=2)
    assert report.passed, [v.describe() for v in report.verdicts if not v.passed]


def test_block_stack_and_fixed_batch_pass(export_variant):
    _, checkpoint, bundle = export_variant("a-stack", batch=2)
    report = compare(bundle, checkpoint, steps=24)
    assert report.passed, [v.describe() for v in report.verdicts if not v.passed]
    assert {run.rows for run in report.runs} == {2}
    assert report.runs[0].kl == []


def test_forecaster_passes_with_its_forecasts_and_their_losses(export_variant):
    _, checkpoint, bundle = export_variant("d-ckpt")
    report = compare(bundle, checkpoint, steps=64, batch=4)
    assert report.passed, [v.describe() for v in report.verdicts if not v.passed]
    assert [run.name for run in report.runs][-3:] == ["forecast", "rollout", "drift"]
    score = report.runs[-2].forecast
    assert score is not None and score.horizons == (8, 16, 24, 32)
    assert all(0 < error < 1e-3 for error in score.largest_error)
    assert all(a > 100 * b for a, b in zip(score.shipped_error, score.largest_error, strict=True))
    np.testing.assert_allclose(score.bundle_loss, score.reference_loss, rtol=1e-4)
    text = io.StringIO()
    Console(file=text, width=200).print(render(report))
    assert "25-32" in text.getvalue() and json.dumps(report.to_dict())


@pytest.mark.parametrize("name", here("e-folder"))
def test_forecaster_of_one_window_passes_with_its_forecasts(name, export_variant):
    _, checkpoint, bundle = export_variant(name)
    report = compare(bundle, checkpoint, steps=64, batch=4)
    assert report.passed, [v.describe() for v in report.verdicts if not v.passed]
    assert [run.name for run in report.runs][-2:] == ["rollout", "drift"]
    score = report.runs[-2].forecast
    assert score is not None and score.horizons == (8, 16, 24, 32)
    np.testing.assert_allclose(score.bundle_loss, score.reference_loss, rtol=1e-4)


def test_forecaster_with_another_window_than_its_model_is_caught_by_its_forecasts_alone(export_variant, tmp_path):
    _, checkpoint, bundle = export_variant("d-ckpt")
    shutil.copytree(bundle, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["forecast"]["context"] //= 2
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps(manifest))
    report = compare(tmp_path / "bundle", checkpoint, steps=16, batch=4)
    assert {v.run for v in report.verdicts if not v.passed} == {"forecast", "rollout"}
    assert report.fault is not None and "only outputs are compared" in report.fault.explanation


@pytest.mark.slow
def test_trained_model_predicts_held_out_text_as_upstream_does(demo_bundle):
    report = validate(
        Bundle.open(demo_bundle),
        open_checkpoint(DEMO),
        ValidationOptions(text=DEMO / "heldout.txt", steps=500, batch=4),
    )
    assert report.passed, [v.describe() for v in report.verdicts if not v.passed]
    drift = report.runs[-1]
    assert drift.text.bytes == 2000
    assert drift.top_one_agreement == 1
    upstream, bundle = (drift.text.bits_per_byte(nats) for nats in (drift.text.reference_nats, drift.text.bundle_nats))
    assert bundle == pytest.approx(upstream, abs=1e-5)
    assert upstream < 2.5  # it has learnt its text


# --- faults ---------------------------------------------------------------------------------------------------------


def weight(bundle: Path, name: str) -> np.memmap:
    """A weight of the bundle, writable where it lies."""
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    place = {entry.key: entry.value for entry in tensor.external_data}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.memmap(bundle / place["location"], dtype, "r+", offset=int(place["offset"]), shape=tuple(tensor.dims))


def move(name: str):
    """One element of one weight, by 0.01."""

    def fault(bundle: Path) -> None:
        weight(bundle, name).reshape(-1)[3] += 1e-2

    return fault


def swap(a: str, b: str):
    def fault(bundle: Path) -> None:
        first, second = weight(bundle, a), weight(bundle, b)
        first[:], second[:] = second.copy(), first.copy()

    return fault


def cross(a: str, b: str):
    """Two states each get the other's next value."""

    def fault(bundle: Path) -> None:
        manifest = json.loads((bundle / "manifest.json").read_text())
        states = {state["input"]: state for state in manifest["states"]}
        states[a]["output"], states[b]["output"] = states[b]["output"], states[a]["output"]
        (bundle / "manifest.json").write_text(json.dumps(manifest))

    return fault


def scale_attribute(node: str, name: str, factor: float):
    def fault(bundle: Path) -> None:
        model = onnx.load(bundle / "model.onnx", load_external_data=False)
        cell = next(n for n in model.graph.node if n.name == node)
        next(a for a in cell.attribute if a.name == name).f *= factor
        (bundle / "model.onnx").write_bytes(model.SerializeToString())

    return fault


FAULTS = {
    "one weight before a cell": ("a-mixed", move("blocks.0.mlstm.q_proj.weight"), 0, "lies in blocks.0, between"),
    "one recurrent weight": ("a-mixed", move("blocks.1.slstm.R"), 1, "lies in blocks.1, between"),
    "one weight behind a cell": ("a-mixed", move("blocks.1.ffn.proj_down.weight"), 2, "in blocks.1 behind the cell"),
    "one weight of the head": ("a-mixed", move("head.weight"), None, "behind the cell of blocks.2"),
    "input and forget gate swapped": (
        "a-mixed",
        swap("blocks.2.mlstm.igate.weight", "blocks.2.mlstm.fgate.weight"),
        2,
        "lies in blocks.2, between",
    ),
    "states paired wrongly": ("a-mixed", cross("blocks.0.mlstm.n", "blocks.2.mlstm.n"), 0, "lies in blocks.0, between"),
    "keys scaled by 1.01": (
        "a-mixed",
        scale_attribute("blocks.2.mlstm/MLSTMCell", "k_scale", 1.01),
        2,
        "lies in blocks.2, between",
    ),
    "one gate bias of xLSTM-7B's block": (
        "c-single",
        move("blocks.1.mlstm.igate+fgate.bias"),
        1,
        "blocks.1, up to its cell",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_bundle_fails_and_the_fault_is_placed(fault, export_variant, tmp_path):
    name, break_, block, place = FAULTS[fault]
    _, checkpoint, bundle = export_variant(name)
    shutil.copytree(bundle, tmp_path / "bundle")
    break_(tmp_path / "bundle")
    report = validate(
        Bundle.open(tmp_path / "bundle"), open_checkpoint(checkpoint), ValidationOptions(steps=12, batch=2)
    )
    assert not report.passed
    assert report.fault.block == block, report.fault
    assert place in report.fault.explanation
    assert report.fault.run == "zeros"


def test_swapped_gates_are_caught_in_float16(export_variant, tmp_path):
    _, checkpoint, bundle = export_variant("a-mixed", "float16")
    shutil.copytree(bundle, tmp_path / "bundle")
    swap("blocks.1.slstm.igate.weight", "blocks.1.slstm.fgate.weight")(tmp_path / "bundle")
    report = validate(
        Bundle.open(tmp_path / "bundle"), open_checkpoint(checkpoint), ValidationOptions(steps=12, batch=2)
    )
    assert report.fault is not None and report.fault.block == 1


def test_a_runtime_that_does_not_reset_a_row_is_caught(export_variant, monkeypatch):
    _, checkpoint, bundle = export_variant("a-mixed")
    reset = OnnxRuntimeSession.reset
    monkeypatch.setattr(OnnxRuntimeSession, "reset", lambda self, row=None: reset(self) if row is None else None)
    report = compare(bundle, checkpoint, steps=12, batch=2)
    assert (report.fault.run, report.fault.step, report.fault.block) == ("reset", 4, 0)


# --- pairs that do not belong together ------------------------------------------------------------------------------


def test_a_bundle_of_other_weights_is_refused(export_variant, tmp_path):
    _, _, bundle = export_variant("a-mixed")
    variant = VARIANTS["a-mixed"]
    other = variant.save(variant.build(seed=1), tmp_path)
    with pytest.raises(UserError, match=r"made from other weights \(ckpt.pt, sha256 \w{12}.*Export it again"):
        compare(bundle, other, steps=1)


def test_a_bundle_of_another_architecture_is_refused_and_the_difference_named(export_variant, tmp_path):
    _, _, bundle = export_variant("a-mixed")
    variant = VARIANTS["a-no-conv"]
    other = variant.save(variant.build(), tmp_path)
    with pytest.raises(UserError, match=r"different models \(blocks\[1\]\.conv_kernel: bundle 4, checkpoint 0\)"):
        compare(bundle, other, steps=1)


def test_a_bundle_of_another_family_is_refused(export_variant):
    _, _, bundle = export_variant("a-mixed")
    _, other, _ = export_variant("b-single")
    with pytest.raises(UserError, match="is of family xlstm, .* of family xlstm-large"):
        compare(bundle, other, steps=1)


def test_a_bundle_of_random_weights_is_refused(export_variant, tmp_path):
    _, path, _ = export_variant("a-mixed")
    real = open_checkpoint(path)
    tensors = random_tensors(real.architecture, seed=0)
    export_bundle(Checkpoint(real.family, path, (), real.architecture, tensors, real.config, {}), tmp_path / "random")
    with pytest.raises(UserError, match="random weights, without a checkpoint"):
        compare(tmp_path / "random", path, steps=1)


def test_what_upstream_raises_on_a_model_is_said_to_be_upstreams(tmp_path):
    """Upstream's group norm refuses one channel a head in a batch of one."""
    import torch
    from dacite import from_dict
    from xlstm import xLSTMBlockStack, xLSTMBlockStackConfig

    slstm = {"backend": "vanilla", "num_heads": 2, "conv1d_kernel_size": 0, "dtype": "float32"}
    block = {"slstm": slstm, "feedforward": None}
    config = {"embedding_dim": 2, "num_blocks": 1, "slstm_at": [0], "context_length": 1, "slstm_block": block}
    state = xLSTMBlockStack(from_dict(xLSTMBlockStackConfig, config)).state_dict()
    state = {name: torch.randn_like(tensor) for name, tensor in state.items()}  # upstream makes NaN for one channel
    torch.save({"state_dict": state, "config": config}, tmp_path / "ckpt.pt")
    export_bundle(open_checkpoint(tmp_path / "ckpt.pt"), tmp_path / "bundle")
    with pytest.raises(UserError, match=r"upstream's own code fails on this model.*ValueError: Expected more than 1"):
        compare(tmp_path / "bundle", tmp_path / "ckpt.pt", steps=3, batch=1)
