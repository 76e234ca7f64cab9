"""Every kind of checkpoint, exported and run in plain ONNX Runtime, gives upstream's logits and states.

Tolerances, relative to the logit spread (maximum minus minimum of the reference):
- float32: 1e-4 after 512 steps, and at 19 of 20 steps before (all but 25: as many in a shorter run of the same steps).
  Rounding is 2^-24 an operation; the recurrences forget, so errors do not pile up with the steps. But random models are
  ill-conditioned at single steps, where a normaliser q n passes through zero: there upstream's own float32 result is as
  far from its float64 result. So no step may be further off than 1e-4 or sixteen times upstream's own worst rounding
  error in the same run.
- float16 and bfloat16: sixteen roundoffs (2^-11, 2^-8) of the spread. Each of the few projections between token and
  logits rounds its inputs, weights and outputs once, which adds up like a random walk, and norms rescale. The median
  over the steps is judged, for the same reason.
"""

import numpy as np
import pytest
import torch
from support.paths import DEMO
from support.upstream_models import (
    VARIANTS,
    canonical_states,
    here,
    is_block_stack,
    random_inputs,
    to_double,
    upstream_model_of,
    upstream_step,
)

from xlstm_export.bundle import Bundle
from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.runtime import open_session

STEPS = 512
ILL_CONDITIONED = 25  # steps that may be beyond 1e-4
STEP_VARIANTS = (
    "a-mixed",
    "a-all-slstm",
    "a-wide-projections",
    "a-stack",
    "b-single",
    "c-single",
    "d-ckpt",
    *here("e-folder"),
)
HALF_VARIANTS = (
    "a-mixed",
    "a-all-slstm",
    "a-stack",
    "b-single",
    "b-wide-keys",
    "c-single",
    "d-wide-heads",
    *here("e-folder"),
)
ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def run_upstream(model, inputs):
    """Outputs (B, S, V) float64, and the states after the last step by canonical name."""
    outputs, state = [], None
    for t in range(inputs.shape[1]):
        y, state = upstream_step(model, inputs[:, t : t + 1], state)
        outputs.append(y.double().numpy())
    states = {name: value.double().numpy() for name, value in canonical_states(model, state).items()}
    return np.concatenate(outputs, 1), states


def remembered_runs():
    """`runs(name, model, inputs)` → what `run_upstream` gives in float32 and in float64; run once a name."""
    made = {}

    def runs(name, model, inputs):
        if name not in made:
            reference = run_upstream(model, inputs)
            exact = run_upstream(to_double(model), inputs.double() if inputs.is_floating_point() else inputs)
            made[name] = (*reference, *exact)
        return made[name]

    return runs


upstream_runs = pytest.fixture(remembered_runs, scope="module")


def run_bundle(bundle, inputs):
    """The same of a bundle, float32."""
    with open_session(Bundle.open(bundle), batch=len(inputs)) as session:
        outputs = [session.step(inputs[:, t : t + 1].numpy()) for t in range(inputs.shape[1])]
        return np.concatenate(outputs, 1), session.read_states()


def error_by_step(outputs, reference):
    return np.abs(outputs - reference).max(axis=(0, 2)) / np.ptp(reference)


@pytest.mark.parametrize("name", VARIANTS)
def test_float32_bundle_gives_upstream_logits_and_states_after_512_steps(name, export_variant, upstream_runs):
    check_against_upstream(name, export_variant, upstream_runs, "both")


@pytest.mark.parametrize("name", STEP_VARIANTS)
def test_float32_bundle_of_steps_gives_upstream_logits_and_states_after_512_steps(name, export_variant, upstream_runs):
    check_against_upstream(name, export_variant, upstream_runs, "step")


def check_against_upstream(name, export_variant, upstream_runs, mode):
    model, _, bundle = export_variant(name, mode=mode)
    inputs = random_inputs(model, batch=2, steps=STEPS, seed=1)
    reference, expected, exact, exact_states = upstream_runs(name, model, inputs)
    outputs, states = run_bundle(bundle, inputs)
    error, rounding = error_by_step(outputs, reference), error_by_step(reference, exact)
    assert error[-1] <= 1e-4 and (error > 1e-4).sum() <= ILL_CONDITIONED
    assert error.max() <= max(1e-4, 16 * rounding.max())
    assert states.keys() == expected.keys()
    for state, value in expected.items():
        own = np.abs(value - exact_states[state]).max()
        atol = max(2e-4 * max(1.0, np.abs(value).max()), 16 * own)
        np.testing.assert_allclose(states[state], value, atol=atol, rtol=0, err_msg=state)


@pytest.mark.parametrize("dtype", ROUNDOFF)
@pytest.mark.parametrize("name", HALF_VARIANTS)
def test_half_precision_bundle_stays_within_sixteen_roundoffs_of_float32_upstream(
    name, dtype, export_variant, upstream_runs
):
    model, _, bundle = export_variant(name, dtype)
    inputs = random_inputs(model, batch=2, steps=STEPS, seed=1)
    reference = upstream_runs(name, model, inputs)[0][:, :128]
    outputs, states = run_bundle(bundle, inputs[:, :128])
    error = error_by_step(outputs, reference)
    assert np.median(error) <= 16 * ROUNDOFF[dtype], error
    assert all(np.isfinite(value).all() for value in (outputs, *states.values()))


@pytest.mark.parametrize("name", ["a-mixed", "b-single"])
def test_rows_of_a_batch_do_not_touch_each_other(name, export_variant):
    """A row gives the same whatever its neighbours hold, and a reset row starts like a fresh one."""
    model, _, bundle = export_variant(name)
    tokens = random_inputs(model, 3, 40, seed=2).numpy()
    with open_session(Bundle.open(bundle), batch=3) as together, open_session(Bundle.open(bundle), batch=1) as alone:
        for t in range(20):
            last = together.step(tokens[:, t : t + 1])
            single = alone.step(tokens[2:, t : t + 1])
        np.testing.assert_allclose(last[2], single[0], atol=1e-5 * np.ptp(single))
        together.reset(2)
        alone.reset()
        for t in range(20, 40):
            last = together.step(tokens[:, t : t + 1])
            single = alone.step(tokens[2:, t : t + 1])
        np.testing.assert_allclose(last[2], single[0], atol=1e-5 * np.ptp(single))


@pytest.mark.parametrize("name", ["a-mixed", "a-stack", "c-single"])
def test_fixed_batch_bundle_equals_dynamic_batch_bundle(name, export_variant):
    model, _, dynamic = export_variant(name)
    _, _, fixed = export_variant(name, batch=2)
    inputs = random_inputs(model, 2, 16, seed=3).numpy()
    with open_session(Bundle.open(dynamic), batch=2) as a, open_session(Bundle.open(fixed), batch=2) as b:
        for t in range(16):
            np.testing.assert_allclose(a.step(inputs[:, t : t + 1]), b.step(inputs[:, t : t + 1]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["b-shards", "b-single", "c-bfloat16", "b-pt", "b-whole-module", "c-pickle-shards"])
def test_linked_weights_give_what_copied_weights_give(name, export_variant):
    dtype = "bfloat16" if VARIANTS[name].dtype == torch.bfloat16 else "float32"
    model, checkpoint, copied = export_variant(name, dtype)
    _, source, linked = export_variant(name, dtype, link_weights=True)
    shards = {f.stat().st_ino for f in ([source] if source.is_file() else source.iterdir())}
    shared = [f for f in linked.iterdir() if f.stat().st_ino in shards]
    assert shared, "no file of the checkpoint is linked into the bundle"
    written = linked / "model.weights"
    if dtype == "float32":
        assert not written.exists(), "float32 weights need no copy at all"
    else:
        assert written.stat().st_size < 0.2 * (copied / "model.weights").stat().st_size
    inputs = random_inputs(model, 1, 8).numpy()
    assert not is_block_stack(model)
    with open_session(Bundle.open(copied)) as a, open_session(Bundle.open(linked)) as b:
        for t in range(8):
            np.testing.assert_array_equal(a.step(inputs[:, t : t + 1]), b.step(inputs[:, t : t + 1]))


def test_trained_model_predicts_the_same_byte_at_each_of_2000_held_out_bytes(demo_bundle):
    """Logits within 1e-4 of the spread without any allowance: a trained model is well-conditioned."""
    model = upstream_model_of(open_checkpoint(DEMO))
    text = torch.tensor(list((DEMO / "heldout.txt").read_bytes()[:2000])).unsqueeze(0)
    reference, expected = run_upstream(model, text)
    outputs, states = run_bundle(demo_bundle, text)
    assert error_by_step(outputs, reference).max() <= 1e-4
    np.testing.assert_array_equal(outputs.argmax(-1), reference.argmax(-1))
    for state, value in expected.items():
        np.testing.assert_allclose(states[state], value, atol=1e-4 * np.abs(value).max(), rtol=0, err_msg=state)
