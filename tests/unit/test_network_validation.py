"""`validate_network` passes bundles that compute what a user's module does, and catches those that do not."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from support.small_modules import Policy, Summing, Window
from support.small_networks import policy_network, summing_network, window_network
from torch import nn

from xlstm_export.bundle import Bundle
from xlstm_export.errors import UserError
from xlstm_export.runtime.onnxruntime import OnnxRuntimeSession
from xlstm_export.validation import ValidationOptions, render, validate_network, write_report
from xlstm_export.validation.metrics import largest_difference, overall_scale
from xlstm_export.validation.network import _longest, _ragged, _sizes, _with_resets, make_references

NETWORKS = {
    "summing": (summing_network, Summing, ["whole", "steps", "chunks", "ragged", "reset", "drift"]),
    "policy": (policy_network, Policy, ["steps", "reset", "drift"]),
    "window": (window_network, Window, ["window-5", "window-16", "window-33"]),
}


def compare(bundle, module, **options):
    return validate_network(Bundle.open(bundle), module, ValidationOptions(**({"steps": 40, "batch": 3} | options)))


def change_constant(bundle, name, change):
    """Another value of one of the graph's constants."""
    model = onnx.load(bundle / "model.onnx")
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor)), name))
    onnx.save(model, bundle / "model.onnx")


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_network_of_every_mode_passes_in_float64(name, batch, tmp_path):
    write, module, runs = NETWORKS[name]
    report = compare(write(tmp_path / "b", batch), module(), batch=batch or 3)
    assert report.passed, [v.describe() for v in report.verdicts if not v.passed]
    assert [run.name for run in report.runs] == runs
    assert "float64" in report.reference
    names = [tensor.name for tensor in Bundle.open(tmp_path / "b").manifest.outputs]
    for run in report.runs:
        assert list(run.outputs) == names and run.rows == (batch or 3)
        assert all(max(series.sensitivity) >= 0 and series.steps for series in run.outputs.values())


def test_report_of_a_network_is_shown_and_written(tmp_path):
    report = compare(summing_network(tmp_path / "b"), Summing())
    console = Console(width=180, record=True, file=open("/dev/null", "w"))
    console.print(render(report))
    text = console.export_text()
    assert "Passed" in text and "the module itself in float64" in text and "Error by output" in text
    for output in ("sums", "last", "scaled"):
        assert f"│ {output}" in text
    write_report(report, tmp_path / "report")
    data = json.loads((tmp_path / "report" / "report.json").read_text())
    assert data["passed"] and set(data["runs"][0]["outputs"]) == {"sums", "last", "scaled"}
    assert (tmp_path / "report" / "drift.png").read_bytes().startswith(b"\x89PNG")


def test_windows_of_one_size_pass(tmp_path):
    report = compare(window_network(tmp_path / "b", length=8), Window())
    assert report.passed and [run.name for run in report.runs] == ["windows"]


def test_weight_that_was_changed_fails_in_the_first_run(tmp_path):
    bundle = policy_network(tmp_path / "b")
    change_constant(bundle, "half", lambda value: value + np.float32(1e-3))
    report = compare(bundle, Policy())
    assert not report.passed and report.fault.run == "steps"
    assert report.fault.step == 1, "the first step has no memory yet"


def test_wrong_output_is_told_from_those_that_are_right(tmp_path):
    bundle = summing_network(tmp_path / "b")
    model = onnx.load(bundle / "model.onnx")
    node = next(n for n in model.graph.node if n.output[0] == "scaled")
    node.input[1] = "zero"
    onnx.save(model, bundle / "model.onnx")
    report = compare(bundle, Summing())
    assert report.fault.quantity == "scaled" and "while sums, last are right" in report.fault.explanation


def test_state_that_is_not_carried_fails_from_the_second_pass_on(tmp_path):
    bundle = summing_network(tmp_path / "b")
    model = onnx.load(bundle / "model.onnx")
    node = next(n for n in model.graph.node if n.output[0] == "net.total.next")
    node.op_type = "Sub"  # the next state is the sum so far less what was added
    onnx.save(model, bundle / "model.onnx")
    report = compare(bundle, Summing())
    first = [run.name for run in report.runs if any(v.run == run.name and not v.passed for v in report.verdicts)][0]
    failed = {(v.run, v.quantity) for v in report.verdicts if not v.passed}
    assert first == "whole" and ("whole", "last") in failed and ("whole", "sums") not in failed
    assert ("steps", "sums") in failed


def test_runtime_that_does_not_reset_a_row_is_caught(tmp_path, monkeypatch):
    reset = OnnxRuntimeSession.reset
    monkeypatch.setattr(OnnxRuntimeSession, "reset", lambda self, row=None: reset(self) if row is None else None)
    report = compare(summing_network(tmp_path / "b"), Summing())
    assert report.fault.run == "reset" and "rows reset on the way" in report.fault.explanation


def test_runtime_that_takes_padding_for_positions_is_caught(tmp_path, monkeypatch):
    run = OnnxRuntimeSession._run

    def without_lengths(self, given, rows, turn):
        given.lengths[:] = given.positions
        return run(self, given, rows, turn)

    monkeypatch.setattr(OnnxRuntimeSession, "_run", without_lengths)
    assert compare(summing_network(tmp_path / "b"), Summing()).fault.run == "ragged"


class InFloat32(Window):
    """Its code says float32."""

    def forward(self, x, mask):
        return super().forward(x @ torch.eye(3), mask)


def test_module_that_fails_in_float64_runs_in_float32_and_the_report_says_so(tmp_path):
    report = compare(window_network(tmp_path / "b"), InFloat32())
    assert report.passed and "float32" in report.reference
    assert any("ran in float32" in note and "test_network_validation.py" in note for note in report.notes)


class Limited(Summing):
    """It has places for thirty positions."""

    def forward(self, x, w, scale):
        return super().forward(x + torch.zeros(30, 1, dtype=x.dtype)[: x.shape[1]], w, scale)


def test_runs_end_where_the_module_ends_and_the_report_says_so(tmp_path):
    report = compare(summing_network(tmp_path / "b"), Limited())
    assert report.passed and max(run.steps for run in report.runs) == 20
    assert any("no more than 20 positions" in note for note in report.notes)


class Failing(nn.Module):
    def forward(self, x, mask):
        raise KeyError("what the user forgot")


def test_module_that_fails_is_said_to_fail_with_its_line(tmp_path):
    with pytest.raises(UserError, match=r"The module fails at test_network_validation.py:\d+ .*KeyError"):
        compare(window_network(tmp_path / "b"), Failing())


class Renamed(Window):
    def forward(self, x, mask):
        return {"average": super().forward(x, mask)["mean"]}


def test_module_with_other_outputs_is_one_message(tmp_path):
    with pytest.raises(UserError, match="bundle gives mean, pairs, and the module returns average: mean is not there"):
        compare(window_network(tmp_path / "b"), Renamed())


def test_pairs_that_do_not_belong_together_are_refused(export_variant, tmp_path):
    with pytest.raises(UserError, match="reads no text"):
        compare(window_network(tmp_path / "b"), Window(), text=tmp_path / "t")
    with pytest.raises(UserError, match="family xlstm, made from a checkpoint.*--checkpoint"):
        compare(export_variant("a-mixed")[2], Window())


def test_errors_are_relative_to_the_spread_over_the_run():
    values = [np.array([[1.0]]), np.array([[3.0]])]
    assert overall_scale(values) == 2 and overall_scale([np.array([5.0])]) == 5 and overall_scale([np.zeros(1)]) == 1
    assert largest_difference(np.array([1.0, 2.0]), np.array([1.0, 2.5])) == 0.5
    assert largest_difference(np.array([1.0, 2.0]), np.array([np.nan, 2.0])) == np.inf
    assert largest_difference(np.array([1.0]), np.array([1.0, 2.0])) == np.inf
    assert largest_difference(np.array([np.nan, 1]), np.array([np.nan, 1])) == 0


def test_passes_hold_what_they_shall(tmp_path):
    assert _sizes((1, 5), 13, 4) == [1, 4, 1, 4, 1, 2]
    passes = _ragged(50, 3, 17, np.random.default_rng(0))
    totals = [sum(one.lengths[row] for one in passes) for row in range(3)]
    assert max(totals) == 50 and any(0 in one.lengths for one in passes)
    reset = _with_resets([2] * 9, 3)
    assert [(i, one.resets) for i, one in enumerate(reset) if one.resets] == [(3, (0,)), (6, (2,))]
    manifest = Bundle.open(summing_network(tmp_path / "b")).manifest
    assert _longest(make_references(Limited(), manifest, 0)[0], 100) == 25
