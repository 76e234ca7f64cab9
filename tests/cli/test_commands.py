"""The command line as its user meets it: output, exit codes, messages, and what is left on disk."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from support.bad_inputs import BAD_INPUTS
from support.command_line import call
from support.paths import DEMO
from typer.testing import CliRunner

from xlstm_export import cli
from xlstm_export.nvidia.driver import list_gpus


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A real process: what `xlstm-export ARGUMENTS` does."""
    command = [sys.executable, "-m", "xlstm_export.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_help_lists_every_command_and_loads_nothing_heavy():
    result = CliRunner().invoke(cli.app, ["--help"])
    for command in (
        "onnx",
        "validate",
        "build",
        "generate",
        "forecast",
        "quantize",
        "bench",
        "inspect",
        "doctor",
        "plugins",
    ):
        assert command in result.output
    probe = "import sys, xlstm_export.cli; print([m for m in ('torch', 'onnx', 'onnxruntime') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "[]"


def test_generate_streams_text_and_repeats_itself_with_the_same_seed(demo_bundle, capsys, monkeypatch):
    arguments = ("generate", demo_bundle, "--prompt", "And God said, ", "-n", "60", "--seed", "7")
    code, first, stats = call(capsys, monkeypatch, *arguments)
    assert code == 0 and first.startswith("And God said, ") and len(first) > 40
    assert "new at" in stats and "/s" in stats
    assert call(capsys, monkeypatch, *arguments)[1] == first
    assert call(capsys, monkeypatch, *arguments[:-1], "8")[1] != first


@pytest.mark.parametrize(
    "option, value, says",
    [
        ("--temperature", "-1", "temperature"),
        ("--temperature", "nan", "temperature"),
        ("--top-k", "-3", "top-k"),
        ("--top-p", "0", "top-p"),
        ("--top-p", "1.5", "top-p"),
        ("--seed", "-1", "seed"),
        ("--prompt", "", "prompt is empty"),
        ("--custom-ops", "nowhere.so", "nowhere.so"),
    ],
)
def test_generate_refuses_impossible_options(option, value, says, demo_bundle, capsys, monkeypatch):
    code, _, error = call(capsys, monkeypatch, "generate", demo_bundle, f"{option}={value}")
    assert code == 2 and says in error and "Traceback" not in error


@pytest.mark.parametrize("kind", ["bundle", "checkpoint"])
def test_inspect_prints_the_trained_model_as_json(kind, demo_bundle, capsys, monkeypatch):
    code, text, _ = call(capsys, monkeypatch, "inspect", {"bundle": demo_bundle, "checkpoint": DEMO}[kind], "--json")
    found = json.loads(text)
    assert code == 0 and (found["kind"], found["family"], found["tokenizer"]) == (kind, "xlstm", "bytes")
    dimensions = found["dimensions"]
    assert (dimensions["embedding_dim"], dimensions["vocab_size"]) == (192, 256)
    assert [(group["kind"], len(group["indices"])) for group in dimensions["blocks"]] == [("mlstm", 5), ("slstm", 1)]
    assert found["parameters"] == sum(t.numel() for t in torch.load(DEMO / "ckpt.pt")["state_dict"].values())


def test_bench_prints_json(demo_bundle, capsys, monkeypatch):
    code, text, _ = call(capsys, monkeypatch, "bench", demo_bundle, "--steps", "5", "--prompt", "32", "--json")
    (batch,) = json.loads(text)["batches"]
    (timing,) = batch["timings"]
    assert code == 0 and timing["steps"] == 5 and 0 < timing["p50"] <= timing["p99"]
    assert batch["prompt"] == 32 and batch["prompt_per_second"] > 0


def test_bench_of_single_steps_has_no_prompt(export_variant, capsys, monkeypatch):
    bundle = export_variant("a-mixed", mode="step")[2]
    code, text, _ = call(capsys, monkeypatch, "bench", bundle, "--steps", "5", "--json")
    assert code == 0 and json.loads(text)["batches"][0]["prompt_per_second"] is None


def test_generate_writes_the_same_whatever_the_chunk(demo_bundle, capsys, monkeypatch):
    arguments = ("generate", demo_bundle, "--prompt", "And it came to pass, when ", "-n", "40", "--temperature", "0")
    texts = {call(capsys, monkeypatch, *arguments, "--chunk", chunk)[1] for chunk in ("1", "7", "256")}
    assert len(texts) == 1


def test_doctor_shows_what_runs_here_with_its_version(capsys, monkeypatch):
    code, text, _ = call(capsys, monkeypatch, "doctor")
    rows = dict(re.findall(r"^[✓–✗]\s+(\S.*?)\s{2,}(\S+)", text, re.MULTILINE))
    assert code == 0 and rows["ONNX Runtime, CPU"] == onnxruntime.__version__
    assert rows["torch"] == importlib.metadata.version("torch")
    assert re.search(r"^[✓–]\s+TensorRT-RTX", text, re.MULTILINE)
    assert ("NVIDIA GPU" in rows) == (not list_gpus())


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=lambda bad: bad.name)
def test_bad_checkpoint_is_one_message_exit_code_two_and_an_untouched_disk(bad, tmp_path, capsys, monkeypatch):
    source, work = tmp_path / "source", tmp_path / "work"
    source.mkdir()
    work.mkdir()
    checkpoint, config = bad.make(source)
    extra = ("--config", config) if config is not None else ()
    code, printed, error = call(capsys, monkeypatch, "onnx", checkpoint, *extra, "-o", work / "bundle")
    assert code == 2 and printed == ""
    flat = " ".join(error.split())
    assert flat.startswith("error: ") and flat.count("error: ") == 1
    assert " ".join(bad.message.split()) in flat, flat
    assert "Traceback" not in error
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--batch", "none"), "--batch"),
        (("--batch", "0"), "--batch"),
        (("--mode", "step", "--logits", "all"), "--logits all"),
        (("--mode", "prompt"), "--mode"),
    ],
)
def test_bad_options_of_onnx_write_nothing(arguments, says, tmp_path, capsys, monkeypatch):
    code, _, error = call(capsys, monkeypatch, "onnx", DEMO, "-o", tmp_path / "b", *arguments)
    assert code == 2 and says in error and list(tmp_path.iterdir()) == []


def test_bundle_is_replaced_only_when_asked_and_anything_else_never(tmp_path, demo_bundle, capsys, monkeypatch):
    bundle, other = tmp_path / "bundle", tmp_path / "thesis"
    shutil.copytree(demo_bundle, bundle)
    before = snapshot(bundle)
    code, _, error = call(capsys, monkeypatch, "onnx", DEMO, "-o", bundle)
    assert code == 2 and "--overwrite" in error and snapshot(bundle) == before
    other.mkdir()
    (other / "chapter1.tex").write_text("years of work")
    code, _, error = call(capsys, monkeypatch, "onnx", DEMO, "-o", other, "--overwrite")
    assert code == 2 and "not a bundle" in error and snapshot(other) == {"chapter1.tex": b"years of work"}
    assert call(capsys, monkeypatch, "onnx", DEMO, "-o", bundle, "--overwrite", "--batch", "2")[0] == 0
    assert json.loads((bundle / "manifest.json").read_text())["batch"] == 2
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_link_across_file_systems_says_what_to_do(tmp_path, monkeypatch, capsys, export_variant):
    _, checkpoint, _ = export_variant("b-single")

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(fcntl, "ioctl", refuse)  # nor does the file system copy on write
    code, _, error = call(capsys, monkeypatch, "onnx", checkpoint, "-o", tmp_path / "b", "--link-weights")
    assert code == 2 and list(tmp_path.iterdir()) == []
    assert "--link-weights: cannot link" in error and "leave --link-weights out to copy the weights" in " ".join(
        error.split()
    )


def test_float16_overflow_is_refused_by_name(tmp_path, capsys, monkeypatch):
    saved = torch.load(DEMO / "ckpt.pt", weights_only=True)
    saved["state_dict"]["lm_head.weight"][3, 5] = 1e6
    torch.save(saved, tmp_path / "ckpt.pt")
    code, _, error = call(capsys, monkeypatch, "onnx", tmp_path / "ckpt.pt", "-o", tmp_path / "b", "--dtype", "float16")
    assert code == 2 and "head.weight" in error and "bfloat16" in error
    assert [p.name for p in tmp_path.iterdir()] == ["ckpt.pt"]


@pytest.mark.parametrize("command", ["generate", "bench", "validate", "build"])
def test_commands_on_a_folder_that_is_no_bundle_say_so(command, tmp_path, capsys, monkeypatch):
    extra = {"validate": ("--checkpoint", DEMO), "build": ("--runtime", "tensorrt-rtx")}.get(command, ())
    code, _, error = call(capsys, monkeypatch, command, tmp_path, *extra)
    assert code == 2 and "not a bundle" in error and list(tmp_path.iterdir()) == []


def test_incomplete_bundle_names_the_missing_file(demo_bundle, tmp_path, capsys, monkeypatch):
    shutil.copytree(demo_bundle, tmp_path / "b")
    (tmp_path / "b" / "model.weights").unlink()
    code, _, error = call(capsys, monkeypatch, "generate", tmp_path / "b")
    assert code == 2 and "model.weights" in error


def test_wrong_batch_says_which_one_the_bundle_has(tmp_path, capsys, monkeypatch, export_variant):
    _, _, bundle = export_variant("a-mixed", batch=2)
    code, _, error = call(capsys, monkeypatch, "bench", bundle, "--batch", "3")
    assert code == 2 and "batch 2" in error


def test_failed_validation_exits_with_one(demo_bundle, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(demo_bundle, bundle)
    weights = np.fromfile(bundle / "model.weights", np.float32)
    weights[-4096:] *= 1.5
    weights.tofile(bundle / "model.weights")
    result = run("validate", bundle, "--checkpoint", DEMO, "--steps", "20")
    assert result.returncode == 1, result.stderr
    assert (bundle / "validation" / "report.json").is_file()
    whole = run("validate", demo_bundle, "--checkpoint", DEMO, "--steps", "20", "--report", tmp_path / "report")
    assert whole.returncode == 0, whole.stdout
