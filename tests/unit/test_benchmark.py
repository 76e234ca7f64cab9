"""`bench` times a bundle and its peers in turns, holds them against the memory, and says when it cannot conclude."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console
from support.paths import DEMO
from support.small_networks import policy_network, summing_network, window_network

from xlstm_export.benchmark import BenchOptions, Source, parse_peers, render, run_bench, save_roofline, to_json
from xlstm_export.benchmark.bench import BatchResult, Benchmark
from xlstm_export.benchmark.contender import Contender
from xlstm_export.benchmark.job import Job
from xlstm_export.benchmark.memory import MemoryStream
from xlstm_export.benchmark.rounds import Limit, Timing
from xlstm_export.bundle import Bundle
from xlstm_export.errors import ErrorKind, UserError


def shown(result):
    console = Console(width=160, file=io.StringIO())
    console.print(render(result))
    return console.file.getvalue(), json.loads(to_json(result))


def timed(bundle, **options):
    result = run_bench(Bundle.open(bundle), BenchOptions(**({"batches": (2,), "steps": 6, "prompt": 8} | options)))
    for batch in result.batches:
        for timing in batch.timings:
            assert 0 < timing.median <= timing.percentile(90) <= timing.percentile(99)
            assert 0 < timing.base_bytes < timing.peak_bytes
    return result, *shown(result)


def test_stream_is_timed_in_steps_and_in_one_longer_pass(tmp_path):
    result, text, data = timed(summing_network(tmp_path / "b"))
    (batch,) = data["batches"]
    assert data["unit"] == "positions" and "positions/s" in text and "pass of 8" in text
    assert batch["timings"][0]["steps"] == 6
    assert batch["timings"][0]["per_second"] == pytest.approx(2 / result.batches[0].bundle.median)
    assert batch["prompt_per_second"] == pytest.approx(16 / result.batches[0].prompt_seconds)
    assert batch["state_bytes"] == 2 * 3 * 4


def test_policy_is_timed_in_steps_alone(tmp_path):
    _, text, data = timed(policy_network(tmp_path / "b"))
    assert data["batches"][0]["prompt"] == 0 and "pass of" not in text


def test_windows_are_counted_by_the_second(tmp_path):
    result, text, data = timed(window_network(tmp_path / "b"))
    assert "windows of 8 positions" in text and data["unit"] == "windows" and "states" not in text
    assert result.positions == 8


def test_upstream_is_timed_beside_the_bundle_for_each_batch(demo_bundle):
    options = {"against": ("upstream",), "source": Source(str(DEMO)), "batches": (1, 3), "prompt": 0, "threads": 1}
    result, text, data = timed(demo_bundle, **options)
    assert [b["batch"] for b in data["batches"]] == [1, 3] and data["missing"] == {}
    assert [t["name"] for t in data["batches"][1]["timings"]] == ["bundle", "upstream"]
    assert text.count("upstream") == 2 and "Batch 3:" in text
    weights, states = data["batches"][1]["weight_bytes"], data["batches"][1]["state_bytes"]
    assert data["batches"][1]["bytes_per_token"] == (weights + 2 * states) / 3
    peer, own = result.batches[0].timings[1], result.batches[0].bundle
    assert peer.peak_bytes > 1.3 * own.peak_bytes  # PyTorch is in the peer's process alone


def test_peers_are_refused_where_there_can_be_none(demo_bundle, tmp_path):
    with pytest.raises(UserError, match="--against names 'onnx'"):
        parse_peers("upstream,onnx")
    with pytest.raises(UserError, match="needs --checkpoint"):
        run_bench(Bundle.open(demo_bundle), BenchOptions(against=("upstream",)))
    with pytest.raises(UserError, match="for language models"):
        run_bench(Bundle.open(summing_network(tmp_path / "b")), BenchOptions(against=("upstream",)))


def test_transformers_exports_no_other_family(demo_bundle):
    with pytest.raises(UserError, match="transformers exports xLSTMForCausalLM") as error:
        run_bench(Bundle.open(demo_bundle), BenchOptions(against=("transformers",), source=Source(str(DEMO))))
    assert error.value.kind is ErrorKind.argument


def test_what_ends_a_process_is_said(tmp_path):
    with pytest.raises(UserError, match="^theirs: ") as error:
        Contender("theirs", Job("bundle", str(tmp_path), 1))
    assert error.value.kind is ErrorKind.bundle
    bundle = summing_network(tmp_path / "b")
    with Contender("ours", Job("bundle", str(bundle), 1)) as contender:
        contender._process.kill()
        with pytest.raises(UserError, match="ended with code -9. The machine ran out of memory"):
            contender.ask("turn", steps=1, seconds=1.0)


def limit(read, taken=0.0):
    return Limit(10**6, 10**5, tuple(read), (0.0001,) * len(read), (taken,) * len(read))


def test_a_machine_is_too_noisy_where_the_limit_varies_or_the_processors_are_taken():
    assert limit([0.001] * 9).is_conclusive
    assert not limit(np.linspace(0.001, 0.0013, 9)).is_conclusive
    assert not limit([0.001] * 9, taken=0.2).is_conclusive


def test_ratio_is_taken_within_each_round():
    slow_machine = Timing("a", ((2.0, 2.2, 1.8), (20.0,), (200.0,)), 2, 1)
    assert slow_machine.ratio([1.0, 10.0, 100.0]) == pytest.approx(2)


def test_report_says_what_was_not_concluded_and_draws_the_roof(tmp_path):
    rounds = ((0.002,) * 4,) * 9
    noisy = limit(np.linspace(0.001, 0.002, 9))
    batches = tuple(BatchResult(b, noisy, (Timing("bundle", rounds, 2, 1),), 0, 0.0, None) for b in (1, 8))
    missing = {"compiled": "compiled: the compiler failed."}
    result = Benchmark("b", "xlstm", "float32", "onnxruntime", None, "both", 1, None, True, "NumPy", batches, missing)
    text, data = shown(result)
    assert text.count("TOO NOISY TO CONCLUDE") == 2 and not data["conclusive"]
    assert "Not timed: compiled: the compiler failed." in text and "NumPy" in text
    save_roofline(result, tmp_path / "roof.png")
    assert (tmp_path / "roof.png").read_bytes().startswith(b"\x89PNG")


def test_table_fits_into_80_columns():
    names = ("bundle", "upstream", "transformers")
    timings = tuple(Timing(name, ((3.4567,) * 4,) * 9, 12_345_000_000, 1) for name in names)
    batches = tuple(BatchResult(b, limit([0.12345] * 9), timings, 0, 0.0, None) for b in (1, 128))
    result = Benchmark("b", "network", "float32", "onnxruntime", None, "both", 1, None, True, "NumPy", batches, {})
    console = Console(width=80, file=io.StringIO())
    console.print(render(result))
    text = console.file.getvalue()
    assert "…" not in text and "transformers" in text and "3,457" in text and "12,345" in text


def test_memory_stream_moves_every_byte_and_scales_beyond_its_buffers(monkeypatch):
    stream = MemoryStream(4 << 20, 1 << 20, 2, None)
    assert stream.kind == "NumPy" and all(np.all(part < 1) for part in stream._states)
    read, update, taken = stream.turn()
    assert read > 0 and update > 0 and 0 <= taken < 1
    monkeypatch.setattr("xlstm_export.benchmark.memory._MOST_BYTES", 1 << 20)
    assert sum(part.nbytes for part in MemoryStream(64 << 20, 0, 1, None)._weights) == 1 << 20
