"""`bench` times what a bundle is run by: single steps and longer passes, or windows."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from support.small_networks import policy_network, summing_network, window_network

from xlstm_export.benchmark import render, step, time_steps
from xlstm_export.bundle import Bundle


@pytest.fixture(autouse=True)
def _memory(monkeypatch):
    """It takes a second each time, and is the same for all."""
    monkeypatch.setattr(step, "_bandwidths", lambda: (1e10, 1e10))


def timed(bundle, **options):
    timing = time_steps(Bundle.open(bundle), **({"batch": 2, "steps": 30, "prompt": 8} | options))
    console = Console(width=160, file=io.StringIO())
    console.print(render(timing))
    assert 0 < timing.median <= timing.p90 <= timing.p99 <= timing.p999
    return timing, console.file.getvalue(), json.loads(timing.to_json())


def test_stream_is_timed_in_steps_and_in_one_longer_pass(tmp_path):
    timing, text, data = timed(summing_network(tmp_path / "b"))
    assert "step, median / p90 / p99 / p99.9" in text and "positions per second" in text and "pass of 8" in text
    assert data["tokens_per_second"] == pytest.approx(2 / timing.median)
    assert data["prompt_tokens_per_second"] == pytest.approx(16 / timing.prompt_seconds)
    assert data["windows_per_second"] is None and data["state_bytes"] == 2 * 3 * 4


def test_policy_is_timed_in_steps_alone(tmp_path):
    timing, text, data = timed(policy_network(tmp_path / "b"))
    assert timing.prompt == 0 and "pass of" not in text and data["prompt_tokens_per_second"] is None


def test_windows_are_counted_by_the_second(tmp_path):
    timing, text, data = timed(window_network(tmp_path / "b"))
    assert "30 windows of 8 positions" in text and "windows per second" in text and "states" not in text
    assert data["windows_per_second"] == pytest.approx(2 / timing.median) and data["tokens_per_second"] is None
    assert timed(window_network(tmp_path / "fixed", length=6))[0].positions == 0
