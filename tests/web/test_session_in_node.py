"""The session in JavaScript gives in Node what a Python session gives, and their saved states are the same files.

TOLERANCE is relative to the spread of the outputs: both run the same graph in ONNX Runtime, of two versions whose
kernels add up in other orders (2^-24 an operation, some hundred of them between input and output).
"""

from __future__ import annotations

import json
import re
import subprocess
from random import Random

import numpy as np
import pytest
from support.corpus import BAD, GOOD, KINDS, STATE_BATCH
from support.paths import ROOT
from support.series import random_series
from support.upstream_models import random_inputs

import xlstm_export
from xlstm_export.bundle import Bundle
from xlstm_export.forecasting import Forecaster
from xlstm_export.runtime import open_session
from xlstm_export.runtime.sampling import Sampling

TOLERANCE = 1e-5
PROMPTS = (7, 0, 3)


def close(found, expected) -> None:
    found, expected = np.asarray(found, np.float32).reshape(expected.shape), np.asarray(expected)
    assert np.abs(found - expected).max() <= TOLERANCE * np.ptp(expected)


@pytest.mark.parametrize("name", ["a-mixed", "a-stack", "b-single", "c-single", "d-ckpt"])
def test_prompts_steps_and_states_are_pythons(name, export_variant, drive, tmp_path):
    """Prompts of different lengths, steps, one row reset, states read; then on from a state that Python saved."""
    model, _, path = export_variant(name)
    inputs = random_inputs(model, batch=3, steps=16, seed=3).numpy()
    prompts = [row[:length] for row, length in zip(inputs, PROMPTS, strict=True)]
    flat = [prompt.ravel().tolist() for prompt in prompts]
    steps = [inputs[:, t].ravel().tolist() for t in range(8, 16)]
    with open_session(Bundle.open(path), batch=3) as session:
        session.prefill([inputs[0, :5]] * 3)
        session.save(tmp_path / "python.state")
        expected = [session.step(inputs[:, 8:9])]
        session.reset()
        expected += [session.prefill(prompts), *(session.step(inputs[:, t : t + 1]) for t in range(8, 12))]
        session.reset(1)
        expected += [session.step(inputs[:, t : t + 1]) for t in range(12, 16)]
        states = session.read_states()

        found = drive(
            path,
            3,
            ["load", str(tmp_path / "python.state")],
            ["step", steps[0]],
            ["reset"],
            ["prefill", flat, {"chunk": 4}],
            *(["step", step] for step in steps[:4]),
            ["reset", 1],
            *(["step", step] for step in steps[4:]),
            ["readStates"],
            ["save", str(tmp_path / "node.state")],
            ["modelHash"],
        )
        *outputs, found_states, saved, found_hash = found
        for value, reference in zip([v for v in outputs if v is not None], expected, strict=True):
            close(value, reference)
        assert saved is None and found_hash == session.bundle.model_hash
        session.load(tmp_path / "node.state")
        for key, value in session.read_states().items():
            np.testing.assert_array_equal(value.ravel(), np.float32(found_states[key]), err_msg=key)
            close(value, states[key])


def test_what_does_not_fit_is_refused_by_kind_and_the_session_goes_on(export_variant, drive, tmp_path):
    _, _, path = export_variant("a-mixed")
    (tmp_path / "text").write_bytes(b"no state of anything, whatever its name says")
    one, two = drive(path, 2, ["step", [1, 2]]), None
    two = drive(
        path,
        2,
        ["step", [1]],
        ["step", [1, 10**6]],
        ["prefill", [[1]]],
        ["reset", 2],
        ["run", {"tokens": [1, 2]}, 1, [2, 0]],
        ["load", str(tmp_path / "text")],
        ["writeStates", {}],
        ["step", [1, 2]],
    )
    assert [answer["error"] for answer in two[:-1]] == ["argument"] * 5 + ["state"] * 2
    assert two[-1] == one[0]
    assert drive(export_variant("a-mixed", batch=2)[2], 3) == [{"error": "argument"}]
    assert drive(export_variant("a-mixed", "bfloat16")[2], 1) == [{"error": "unavailable"}]


def test_damaged_states_of_the_corpus_are_refused_and_good_ones_taken(drive, tmp_path, export_variant):
    """On the model of a bundle with the corpus's manifest, whose graph is never run."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(GOOD["manifest/both.json"].read_bytes())
    graph = export_variant("a-mixed")[2]
    for name in ("model.onnx", "model.weights"):
        (folder / name).symlink_to(graph / name)
    names = [name for name in (*GOOD, *BAD) if name.startswith("state/")]
    answers = drive(folder, STATE_BATCH, *(["load", str((GOOD | BAD)[name])] for name in names))
    found = {name: answer["error"] if answer else "ok" for name, answer in zip(names, answers, strict=True)}
    assert found == {name: KINDS.get(name, "ok") for name in names}
    assert {"ok", "state"} == {*found.values()}


def test_hash_of_a_model_is_the_same_as_in_python(drive, tmp_path, export_variant):
    random = Random(0)
    sizes = [10 ** random.uniform(-330, 308) for _ in range(1000)] + [2.0**power for power in range(-1074, 1024, 3)]
    edges = [1e-4, 9.999e-5, 1e15, 1e16, 123456789012345.6, 999999999999999.9, 0.1, 5e-324, 1.7976931348623157e308]
    manifest = json.loads(GOOD["manifest/both.json"].read_text())
    manifest["architecture"] = {
        "numbers": [*sizes, *(-size for size in edges), *edges, 15.0, 0.0, -0.0, 0, 15, -1, 2**64 - 1, -(2**63)],
        "texts": ["".join(map(chr, range(0xD800))), "\U0001f600\U0010ffff", "\ue000\uffff", ""],
        **{key: {} for key in ("é", "z", "~", "\U00010000", "\uffff", 'a"', "a\\", "\n", "")},
        "words": [True, False, None],
    }
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    graph = export_variant("a-mixed")[2]
    for name in ("model.onnx", "model.weights"):
        (folder / name).symlink_to(graph / name)
    assert drive(folder, STATE_BATCH, ["modelHash"]) == [Bundle.open(folder).model_hash]


def test_forecasts_are_pythons(drive, export_variant):
    """Short and long series, missing values, horizons of several patches, both rollouts."""
    path = Bundle.open(export_variant("d-ckpt")[2])
    with open_session(path, batch=1) as session:
        forecaster = Forecaster(session)
        cases = [(row, 5 + 3 * i, 1 + i % 3) for i, row in enumerate(random_series(12, 3 * forecaster.spec.context))]
        expected = [forecaster.forecast([row], horizon, rollout)[0] for row, horizon, rollout in cases]
    calls = [
        ["forecast", [None if np.isnan(v) else float(v) for v in row], horizon, {"rollout": rollout}]
        for row, horizon, rollout in cases
    ]
    for found, reference, (row, _, _) in zip(drive(path.path, 1, *calls), expected, cases, strict=True):
        size = max(1.0, np.abs(reference).max()) if np.isnan(row).all() else np.ptp(reference)
        rounding = 2.0**-23 * np.abs(reference).max()  # of a series that is far from zero, when it is scaled back
        assert np.abs(np.float32(found) - reference).max() <= TOLERANCE * size + rounding


def test_example_of_the_page_on_browsers_runs(packages, demo_bundle, tmp_path):
    (example,) = re.findall(r"```js\n(.*?)```", (ROOT / "docs" / "how-to" / "browser.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "example.mjs").write_text(example)
    (tmp_path / "session.js").symlink_to(ROOT / "xlstm_export" / "web" / "page" / "session.js")
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    (tmp_path / "bundle").symlink_to(demo_bundle)
    command = ["node", "--preserve-symlinks", "example.mjs"]
    text = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True).stdout
    greedy = xlstm_export.generate(
        xlstm_export.open_bundle(demo_bundle), "In the beginning ", 60, Sampling(temperature=0)
    )
    assert text == "".join(greedy)
