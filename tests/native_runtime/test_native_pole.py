"""`xlstm-pole`: the loop of policy and plant in C++ is the loop in Python, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.example_networks import EXAMPLES, load
from support.hand_written_bundles import write_fixed_network, write_regulator
from support.native import attempt, onnxruntime_operators, run
from support.networks.randomise import randomise

import xlstm_export
from xlstm_export.bundle import Bundle
from xlstm_export.runtime import open_session

pytestmark = pytest.mark.usefixtures("cpu_and_one_thread")
plant = load(EXAMPLES / "pole" / "plant.py")


def write_policy(folder: Path) -> Path:
    """The example's network with random weights."""
    policy = load(EXAMPLES / "pole" / "network.py").build()
    randomise(policy, 0)
    return xlstm_export.export_network(policy, {"observation": "B,2"}, folder).path


def python_loop(bundle: Path, steps: int, library: Path | None) -> np.ndarray:
    """(steps, 5) float64: force, cart's position and velocity, pole's angle and rate after each step."""
    state, lines = plant.START, []
    with open_session(Bundle.open(bundle), custom_ops=library) as session:
        for index in range(steps):
            (force,) = session.run({"observation": np.array([[state[0], state[2]]], np.float32)}).values()
            state = plant.step(state, force.item() + plant.push(index))
            lines.append((force.item(), *state))
    return np.array(lines)


@pytest.mark.parametrize("with_custom_ops", [False, True], ids=["definitions", "custom-ops"])
@pytest.mark.parametrize(
    "write, steps, stands", [(write_regulator, 6000, True), (write_policy, 400, False)], ids=["regulator", "policy"]
)
def test_the_trajectory_is_pythons_over_the_same_bundle(
    release: Path, tmp_path: Path, write, steps: int, stands: bool, with_custom_ops: bool
) -> None:
    bundle, file = write(tmp_path / "bundle"), tmp_path / "trajectory"
    library = onnxruntime_operators() if with_custom_ops else None
    named = ["--custom-ops", library] if library else []
    report = json.loads(
        run(release / "xlstm-pole", bundle, "--steps", steps, "--device", "cpu", "--trajectory", file, *named)
    )
    expected = python_loop(bundle, steps, library)
    assert expected[:, 0].std() > 0.01 and np.isfinite(expected).all()
    assert np.fromfile(file).reshape(steps, 5).tobytes() == expected.tobytes()
    up = np.array([plant.up(tuple(line[1:])) for line in expected])
    assert report["stood"] == (steps if stands else int(np.argmin(up)))
    assert up.all() == stands


def test_percentiles_are_those_of_the_latencies(release: Path, tmp_path: Path) -> None:
    file = tmp_path / "latencies"
    report = json.loads(
        run(release / "xlstm-pole", write_regulator(tmp_path / "bundle"), "--steps", 1001, "--latencies", file)
    )
    found, times = report["microseconds"], np.fromfile(file)
    assert len(times) == report["steps"] == 1001
    exact = np.percentile(times, [0, 50, 90, 99, 99.9, 100])
    assert [found[key] for key in ("min", "p50", "p90", "p99", "p99.9", "max")] == pytest.approx(exact, abs=0.006)
    assert report["later_than_1_ms"] == (times > 1000).sum()


def test_a_bundle_that_is_no_policy_is_refused_in_one_line(release: Path, tmp_path: Path) -> None:
    done = attempt(release / "xlstm-pole", write_fixed_network(tmp_path / "bundle"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "This bundle is no policy for the pole: it must take one float32 (batch, 2)" in done.stderr
