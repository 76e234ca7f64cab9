"""Prompts in chunks give what the same tokens give one by one, states included, on plain ONNX Runtime.

Tolerance: 1e-4 of the logit spread, and of a state's largest value. Both sides compute in float32 (2^-24) and differ
in the order of summation alone; a recurrence forgets its roundings. That prefill equals *upstream* is `validate`'s to
show (`test_validate.py`): here it is one graph against itself.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch
from support.paths import DEMO
from support.upstream_models import VARIANTS, random_inputs

from xlstm_export.bundle import Bundle
from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.errors import UserError
from xlstm_export.exporter.write import export_bundle
from xlstm_export.runtime import open_session

CHUNKS = (1, 7, 64, 256)
STOPS = (1, 2, 65, 300, 1000, 3000)
"""Positions after which logits and states are compared."""
FAMILIES = ["a-mixed", "a-all-slstm", "a-other-conv", "a-stack", "b-single", "b-wide-keys", "c-single"]
TOLERANCE = 1e-4


def step_by_step(bundle, inputs, stops):
    """Outputs (B, V) and states after each stop; inputs (B, T) or (B, T, D)."""
    found = {}
    with open_session(Bundle.open(bundle), batch=len(inputs)) as session:
        for position in range(stops[-1]):
            outputs = session.step(inputs[:, position : position + 1])
            if position + 1 in stops:
                found[position + 1] = outputs[:, 0], session.read_states()
    return found


def check(outputs, states, expected, where):
    logits, expected_states = expected
    assert np.abs(outputs[:, 0] - logits).max() <= TOLERANCE * np.ptp(logits), where
    for name, value in expected_states.items():
        assert np.abs(states[name] - value).max() <= TOLERANCE * max(1e-3, np.abs(value).max()), (where, name)


def check_chunks(bundle, inputs, stops, chunks=CHUNKS):
    expected = step_by_step(bundle, inputs, stops)
    with open_session(Bundle.open(bundle), batch=len(inputs)) as session:
        for chunk in chunks:
            session.reset()
            for start, stop in zip((0, *stops), stops, strict=False):
                outputs = session.prefill(inputs[:, start:stop], chunk)
                check(outputs, session.read_states(), expected[stop], (chunk, stop))


@pytest.mark.parametrize("name", FAMILIES)
def test_chunks_of_any_size_give_what_single_steps_give(name, export_variant):
    model, _, bundle = export_variant(name)
    check_chunks(bundle, random_inputs(model, 2, STOPS[-1], seed=5).numpy(), STOPS)


@pytest.mark.parametrize("name", ["a-mixed", "b-single"])
def test_gates_far_out_leave_the_chunks_right(name, tmp_path):
    """Gates thirty times as strong: forget gates shut and open again, stabilisers run away."""
    model = VARIANTS[name].build(seed=2)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "gate" in parameter_name and "ffn" not in parameter_name:
                parameter *= 30
    export_bundle(open_checkpoint(VARIANTS[name].save(model, tmp_path / "checkpoint")), tmp_path / "bundle")
    check_chunks(tmp_path / "bundle", random_inputs(model, 2, 300, seed=6).numpy(), (1, 65, 300))


def test_trained_model_reads_held_out_text_in_chunks_as_it_does_byte_by_byte(demo_bundle):
    text = np.frombuffer((DEMO / "heldout.txt").read_bytes()[: STOPS[-1]], np.uint8)[None]
    check_chunks(demo_bundle, text, STOPS)


@pytest.mark.parametrize("name", ["a-mixed", "a-stack", "b-single", "c-single"])
def test_row_of_a_ragged_batch_gets_what_it_gets_alone(name, export_variant):
    model, _, bundle = export_variant(name)
    lengths = [97, 1, 0, 64, 33]
    inputs = random_inputs(model, len(lengths), max(lengths) + 1, seed=7).numpy()
    prompts = [row[:length] for row, length in zip(inputs, lengths, strict=True)]
    with open_session(Bundle.open(bundle), batch=len(lengths)) as together, open_session(Bundle.open(bundle)) as alone:
        outputs = together.prefill(prompts, 32)
        after = together.step(inputs[:, -1:])
        states = together.read_states()
        for row, prompt in enumerate(prompts):
            alone.reset()
            expected = alone.prefill([prompt], 32)
            spread = np.ptp(alone.step(inputs[row : row + 1, -1:]))
            np.testing.assert_allclose(outputs[row], expected[0], atol=1e-5 * spread, rtol=0)
            alone.reset()
            alone.prefill([prompt])
            expected = alone.step(inputs[row : row + 1, -1:])
            np.testing.assert_allclose(after[row], expected[0], atol=1e-5 * spread, rtol=0)
            for state, value in alone.read_states().items():
                np.testing.assert_allclose(
                    states[state][row], value[0], atol=1e-4 * max(1e-3, np.abs(value).max()), err_msg=state
                )
        assert not outputs[2].any(), "an empty prompt has no logits"


@pytest.mark.parametrize("name", ["a-mixed", "a-stack", "b-single"])
def test_outputs_of_all_positions_are_those_of_every_step(name, export_variant):
    model, _, bundle = export_variant(name, mode="prefill", logits="all")
    inputs = random_inputs(model, 2, 20, seed=8).numpy()
    with (
        open_session(Bundle.open(bundle), batch=2) as session,
        open_session(Bundle.open(export_variant(name, mode="step")[2]), batch=2) as steps,
    ):
        outputs = session.feed(inputs, np.array([20, 11]))
        expected = np.concatenate([steps.step(inputs[:, t : t + 1]) for t in range(20)], 1)
        np.testing.assert_allclose(outputs[0], expected[0], atol=1e-5 * np.ptp(expected))
        np.testing.assert_allclose(outputs[1, :11], expected[1, :11], atol=1e-5 * np.ptp(expected))
        session.reset()
        last = session.prefill([inputs[0], inputs[1, :11]])
        np.testing.assert_allclose(last[:, 0], [outputs[0, 19], outputs[1, 10]], atol=1e-6 * np.ptp(expected))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["a-mixed", "b-single", "c-single"])
def test_half_precision_chunks_stay_within_sixteen_roundoffs_of_steps(name, dtype, export_variant):
    """The same roundings to 16 bits, of float32 values that differ in the last bits: some fall to the other side."""
    model, _, bundle = export_variant(name, dtype)
    inputs, stops = random_inputs(model, 2, 130, seed=5).numpy(), tuple(range(10, 131, 10))
    expected = step_by_step(bundle, inputs, stops)
    errors = []
    with open_session(Bundle.open(bundle), batch=2) as session:
        for start, stop in zip((0, *stops), stops, strict=False):
            outputs = session.prefill(inputs[:, start:stop], 64)
            errors.append(np.abs(outputs[:, 0] - expected[stop][0]).max() / np.ptp(expected[stop][0]))
    assert np.median(errors) <= 16 * {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]


@pytest.mark.parametrize("name", ["a-mixed", "b-single"])
def test_bundle_of_steps_takes_equal_prompts_step_by_step_and_refuses_others(name, export_variant):
    model, _, bundle = export_variant(name, mode="step")
    inputs = random_inputs(model, 2, 9, seed=9).numpy()
    with (
        open_session(Bundle.open(bundle), batch=2) as session,
        open_session(Bundle.open(export_variant(name)[2]), batch=2) as chunks,
    ):
        expected = chunks.prefill(inputs, 4)
        np.testing.assert_allclose(session.prefill(inputs), expected, atol=1e-5 * np.ptp(expected))
        with pytest.raises(UserError, match="Export it with --mode both"):
            session.prefill([inputs[0], inputs[1, :3]])
        with pytest.raises(UserError, match="expected"):
            session.feed(inputs)


def test_malformed_passes_are_refused_and_leave_the_session_usable(export_variant):
    with open_session(Bundle.open(export_variant("a-mixed")[2]), batch=2) as session:
        tokens = np.ones((2, 3), np.int64)
        wrong = [(tokens[:1], None), (tokens[:, :0], None), (tokens, [1]), (tokens, [4, 1]), (tokens, [-1, 1])]
        for inputs, lengths in wrong:
            with pytest.raises(UserError, match="expected"):
                session.feed(inputs, lengths)
        with pytest.raises(UserError, match="1 prompts for a batch of 2"):
            session.prefill(tokens[:1])
        with pytest.raises(UserError, match="The chunk is 0"):
            session.prefill(tokens, 0)
        assert session.prefill(tokens).any()


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from xlstm_export.bundle import Bundle
from xlstm_export.runtime import open_session

with open_session(Bundle.open(sys.argv[1])) as session:
    for length in (2048, 32768):
        session.prefill([np.arange(length) % session.manifest.vocab_size])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_peak_memory_does_not_grow_with_the_prompt(export_variant):
    bundle = export_variant("a-mixed")[2]
    done = subprocess.run([sys.executable, "-c", MEMORY, bundle], capture_output=True, text=True, check=True)
    short, long = map(int, done.stdout.split())
    assert long - short < 2048, "kilobytes; the longer prompt itself takes 480"
