"""Saved states: C++ and Python write the same bytes and continue from each other's, bit for bit."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.native import attempt, environment, run
from support.native_sessions import make_inputs, native_steps

from xlstm_export.bundle import Bundle
from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.exporter import ExportOptions, export_bundle
from xlstm_export.runtime import open_session

pytestmark = pytest.mark.usefixtures("cpu_and_one_thread")
Export = Callable[..., tuple[object, Path, Path]]


@pytest.mark.parametrize(
    "name, dtype, states, fixed, batch",
    [
        ("a-mixed", "float32", "float32", None, 1),
        ("a-mixed", "float16", "bfloat16", None, 3),
        ("a-stack", "float32", "float32", None, 2),
        ("b-single", "float32", "float16", 2, 2),
        ("c-single", "float32", "float32", None, 1),
    ],
)
def test_a_state_saved_on_one_side_continues_on_the_other_to_the_same_bits(
    release: Path,
    export_variant: Export,
    tmp_path: Path,
    name: str,
    dtype: str,
    states: str,
    fixed: int | None,
    batch: int,
) -> None:
    bundle = export_variant(name, dtype, fixed, state_dtype=states)[2]
    inputs = make_inputs(bundle, 120, batch)
    ours, theirs = tmp_path / "python.state", tmp_path / "cpp.state"
    with open_session(Bundle.open(bundle), batch=batch) as session:
        for step in inputs[:60]:
            session.step(step)
        session.save(ours)
        expected = np.stack([session.step(step) for step in inputs[60:]])
        native_steps(release, bundle, inputs[:60], tmp_path, f"save={theirs}")
        session.load(theirs)
        assert np.stack([session.step(step) for step in inputs[60:]]).tobytes() == expected.tobytes()
    assert ours.read_bytes() == theirs.read_bytes()
    assert native_steps(release, bundle, inputs[60:], tmp_path, f"load={ours}").tobytes() == expected.tobytes()


def test_a_killed_process_continues_from_its_saved_state_as_if_never_stopped(
    release: Path, export_variant: Export, tmp_path: Path
) -> None:
    bundle = export_variant("a-mixed")[2]
    inputs = make_inputs(bundle, 200, 2)
    whole = native_steps(release, bundle, inputs, tmp_path)
    first = native_steps(release, bundle, inputs[:120], tmp_path, f"save={tmp_path / 's.state'}")
    rest = native_steps(release, bundle, inputs[120:], tmp_path, f"load={tmp_path / 's.state'}")
    assert whole.tobytes() == first.tobytes() + rest.tobytes()

    # Killed with SIGKILL while it generates, after it has loaded the file that it would save to.
    state = save_one(release, bundle, tmp_path)
    saved = state.read_bytes()
    endless = [release / "xlstm-generate", bundle, "--ids", "1", "--max-new-tokens", "1000000000"]
    process = subprocess.Popen(
        [*endless, "--load", state, "--save", state], env=environment(), stdout=subprocess.PIPE, text=True
    )
    tokens = [process.stdout.readline() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert state.read_bytes() == saved
    again = run(release / "xlstm-generate", bundle, "--ids", "1", "--max-new-tokens", "20", "--load", state)
    assert again.splitlines(keepends=True) == tokens


def save_one(release: Path, bundle: Path, folder: Path) -> Path:
    """The state of one sequence after a few tokens."""
    state = folder / "one.state"
    run(release / "xlstm-generate", bundle, "--ids", "1,2,3", "--max-new-tokens", "1", "--save", state)
    return state


def test_a_state_moves_between_dtypes_of_a_model_and_not_to_another_model(
    release: Path, export_variant: Export, tmp_path: Path
) -> None:
    _, checkpoint, bundle = export_variant("a-mixed")
    state = save_one(release, bundle, tmp_path)
    load = ("--ids", "1", "--max-new-tokens", "1", "--load", state)
    options = ExportOptions("float16", batch=1, state_dtype="bfloat16")
    export_bundle(open_checkpoint(checkpoint), tmp_path / "half", options)
    run(release / "xlstm-generate", tmp_path / "half", *load)
    # The same architecture with other weights.
    refused = attempt(release / "xlstm-generate", export_variant("a-yaml")[2], *load)
    assert refused.returncode == 2
    assert "was saved by another model" in refused.stderr
