"""The commands on a network of a user's own: exported, inspected, validated, timed, built; and what they refuse."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from support.command_line import call

from xlstm_export.bundle import Bundle
from xlstm_export.runtime import open_session
from xlstm_export.runtime.onnxruntime import OnnxRuntimeSession

NETWORK = """
import torch
from support.networks.parts import slstm_block
from torch import nn


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.block = nn.Linear(4, 16), slstm_block(16)
        self.tags, self.level = nn.Linear(16, 3), nn.Linear(16, 1)

    def forward(self, signal, gain):
        hidden = self.block(self.encode(signal * gain[:, None]))
        return {"tags": self.tags(hidden), "level": self.level(hidden[:, -1])}


def build():
    return Tagger()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The user's file, the weights, and the bundle, exported from the command line."""
    from support.networks import randomise

    folder = tmp_path_factory.mktemp("network")
    (folder / "net.py").write_text(NETWORK)
    spec = importlib.util.spec_from_file_location("net_for_weights", folder / "net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    network = module.build()
    randomise(network, 0)
    torch.save(network.state_dict(), folder / "ckpt.pt")
    return folder, f"{folder / 'net.py'}:build"


@pytest.fixture(scope="module")
def bundle(made):
    folder, factory = made
    patch = pytest.MonkeyPatch()
    import io
    from contextlib import redirect_stderr, redirect_stdout

    from xlstm_export import cli

    out, err = io.StringIO(), io.StringIO()
    inputs = ("--input", "signal=B,S,4:float32", "--input", "gain=B,4:float32")
    arguments = ["onnx", factory, "--weights", str(folder / "ckpt.pt"), *inputs, "-o", str(folder / "bundle")]
    patch.setattr("sys.argv", ["xlstm-export", *arguments])
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
        cli.main()
    patch.undo()
    assert not stop.value.code, err.getvalue()
    return folder / "bundle"


def test_network_is_inspected_by_its_own_names(bundle, capsys, monkeypatch):
    code, text, _ = call(capsys, monkeypatch, "inspect", bundle)
    assert code == 0 and "SLSTMCell" in text and "both: a stream" in text
    for name in ("signal", "gain", "lengths", "tags", "level", "block"):
        assert name in text
    found = json.loads(call(capsys, monkeypatch, "inspect", bundle, "--json")[1])
    assert [cell["kind"] for cell in found["cells"]] == ["SLSTMCell"] and len(found["cells"][0]["states"]) == 4


def test_network_is_validated_against_the_module_itself(made, bundle, tmp_path, capsys, monkeypatch):
    folder, factory = made
    arguments = ("--weights", folder / "ckpt.pt", "--steps", "48", "--batch", "3", "--report", tmp_path)
    code, text, error = call(capsys, monkeypatch, "validate", bundle, "--module", factory, *arguments)
    assert code == 0, text + error
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["passed"] and [run["name"] for run in data["runs"]][-1] == "drift"
    assert set(data["runs"][0]["outputs"]) == {"tags", "level"} and "float64" in data["reference"]
    worst = max(max(series["error"]) for run in data["runs"] for series in run["outputs"].values())
    assert worst < 1e-5
    states = {f"block.slstm.{name}" for name in "ycnm"} | {"block.slstm.conv"}
    assert all(run["states"].keys() == states for run in data["runs"])
    assert max(max(series["error"]) for run in data["runs"] for series in run["states"].values()) < 1e-5
    assert "State error by block" in text and "KL" not in text and "top-1" not in text


def test_state_that_is_not_the_modules_is_a_fault_though_outputs_are_right(made, bundle, capsys, monkeypatch):
    folder, factory = made
    read = OnnxRuntimeSession.read_states
    monkeypatch.setattr(
        OnnxRuntimeSession, "read_states", lambda self: read(self) | {"block.slstm.n": 2 * read(self)["block.slstm.n"]}
    )
    arguments = ("--weights", folder / "ckpt.pt", "--steps", "8", "--batch", "1")
    code, text, _ = call(capsys, monkeypatch, "validate", bundle, "--module", factory, *arguments)
    assert code == 1 and "block.slstm.n" in text and "the fault lies in block.slstm" in " ".join(text.split())


def test_other_weights_are_refused(made, bundle, tmp_path, capsys, monkeypatch):
    folder, factory = made
    state = torch.load(folder / "ckpt.pt")
    state["tags.bias"] += 1e-3
    torch.save(state, tmp_path / "other.pt")
    code, _, error = call(
        capsys, monkeypatch, "validate", bundle, "--module", factory, "--weights", tmp_path / "other.pt"
    )
    assert code == 2 and "made from other weights" in error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "needs what the bundle was made from"),
        (("--weights", "w.pt"), "needs what the bundle was made from"),
        (("--checkpoint", "c.pt", "--module", "m:f"), "needs what the bundle was made from"),
    ],
)
def test_validate_says_what_it_needs(arguments, says, bundle, capsys, monkeypatch):
    code, _, error = call(capsys, monkeypatch, "validate", bundle, *arguments)
    assert code == 2 and says in error


def test_network_has_no_checkpoint_and_a_language_model_no_module(made, bundle, export_variant, capsys, monkeypatch):
    folder, factory = made
    _, checkpoint, other = export_variant("a-mixed")
    code, _, error = call(capsys, monkeypatch, "validate", bundle, "--checkpoint", checkpoint)
    assert code == 2 and "--module package.module:factory" in error
    code, _, error = call(capsys, monkeypatch, "validate", other, "--module", factory)
    assert code == 2 and "--checkpoint CKPT instead of a module" in error


def test_network_is_timed(bundle, capsys, monkeypatch):
    code, text, _ = call(capsys, monkeypatch, "bench", bundle, "--steps", "5", "--prompt", "8", "--json")
    (batch,) = json.loads(text)["batches"]
    (timing,) = batch["timings"]
    assert code == 0 and 0 < timing["p50"] <= timing["p99"] and batch["prompt"] == 8


def test_network_generates_nothing(bundle, capsys, monkeypatch):
    code, _, error = call(capsys, monkeypatch, "generate", bundle)
    assert code == 2 and "gives tags, level, not logits of a language model" in error and "Traceback" not in error


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs TensorRT-RTX")
def test_engine_of_a_network_is_built_ahead_of_time(bundle, capsys, monkeypatch):
    arguments = ("--runtime", "tensorrt-rtx", "--target", "sm89", "--max-chunk", "16")
    code, text, error = call(capsys, monkeypatch, "build", bundle, *arguments)
    assert code == 0, error
    (engine,) = Bundle.open(bundle).engines()
    assert engine.record.profiles == ("decode", "prefill") and engine.record.max_chunk == 16
    names = [tensor.name for tensor in engine.record.tensors]
    assert {"signal", "gain", "lengths", "tags", "level"} < {*names}


def test_reset_row_beside_warm_rows_gets_what_it_gets_alone(bundle):
    """Upstream's PyTorch sLSTM would not: it asks the whole batch whether it is at its first step."""
    random = np.random.default_rng(0)
    signal, gain = random.standard_normal((3, 9, 4), np.float32), random.standard_normal((3, 4), np.float32)
    with open_session(Bundle.open(bundle), batch=3) as session, open_session(Bundle.open(bundle)) as alone:
        session.run({"signal": signal, "gain": gain})
        session.reset(1)
        together = session.run({"signal": signal[:, :5], "gain": gain})
        own = alone.run({"signal": signal[1:2, :5], "gain": gain[1:2]})
        for name, value in own.items():
            np.testing.assert_allclose(together[name][1:2], value, atol=1e-6)
        for name, value in alone.read_states().items():
            np.testing.assert_allclose(session.read_states()[name][1:2], value, atol=1e-6)
