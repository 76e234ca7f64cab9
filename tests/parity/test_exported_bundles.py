"""Every kind of checkpoint, exported and run in plain ONNX Runtime, gives upstream's logits and states.

Tolerances, relative to the logit spread (maximum minus minimum of the reference):
- float32: 1e-4 after 512 steps. Rounding is 2^-24 an operation; the recurrences forget, so errors do not pile up
  with the steps, but the random models' gates and norms amplify them by up to a thousand.
- float16 and bfloat16: sixteen roundoffs (2^-11, 2^-8) of the spread. Each of the few projections between token and
  logits rounds its inputs, weights and outputs once, which adds up like a random walk, and norms rescale.
"""

import numpy as np
import pytest
import torch
from upstream_models import VARIANTS, canonical_states, is_block_stack, random_inputs, upstream_step

from xlstm_export.runtime import open_session

STEPS = 512
HALF_VARIANTS = ("a-mixed", "a-all-slstm", "a-stack", "b-single", "b-wide-keys", "c-single")
ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def run_side_by_side(model, bundle, batch, steps, reset_at=None):
    """Outputs (B, S, V) of upstream and of the bundle, and the states after the last step by canonical name."""
    inputs = random_inputs(model, batch, steps, seed=1)
    reference, outputs, state = [], [], None
    with open_session(bundle, batch=batch) as session:
        for t in range(steps):
            y, state = upstream_step(model, inputs[:, t : t + 1], state)
            reference.append(y.float().numpy())
            outputs.append(session.step(inputs[:, t : t + 1].numpy()))
        states = session.read_states()
    return np.concatenate(reference, 1), np.concatenate(outputs, 1), canonical_states(model, state), states


@pytest.mark.parametrize("name", VARIANTS)
def test_float32_bundle_gives_upstream_logits_and_states_after_512_steps(name, export_variant):
    model, _, bundle = export_variant(name)
    reference, outputs, expected, states = run_side_by_side(model, bundle, batch=2, steps=STEPS)
    spread = np.ptp(reference)
    assert np.abs(outputs - reference).max() <= 1e-4 * spread
    assert states.keys() == expected.keys()
    for state, value in expected.items():
        scale = max(1.0, float(value.abs().max()))
        np.testing.assert_allclose(states[state], value.float().numpy(), atol=2e-4 * scale, rtol=0, err_msg=state)


@pytest.mark.parametrize("dtype", ROUNDOFF)
@pytest.mark.parametrize("name", HALF_VARIANTS)
def test_half_precision_bundle_stays_within_sixteen_roundoffs_of_float32_upstream(name, dtype, export_variant):
    model, _, bundle = export_variant(name, dtype)
    reference, outputs, _, states = run_side_by_side(model, bundle, batch=2, steps=128)
    error = np.abs(outputs - reference).max(axis=(0, 2)) / np.ptp(reference)
    assert error.max() <= 16 * ROUNDOFF[dtype], error
    assert all(np.isfinite(value).all() for value in states.values())


@pytest.mark.parametrize("name", ["a-mixed", "b-single"])
def test_rows_of_a_batch_do_not_touch_each_other(name, export_variant):
    """A row gives the same whatever its neighbours hold, and a reset row starts like a fresh one."""
    model, _, bundle = export_variant(name)
    tokens = random_inputs(model, 3, 40, seed=2).numpy()
    with open_session(bundle, batch=3) as together, open_session(bundle, batch=1) as alone:
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
    with open_session(dynamic, batch=2) as a, open_session(fixed, batch=2) as b:
        for t in range(16):
            np.testing.assert_allclose(
                a.step(inputs[:, t : t + 1]), b.step(inputs[:, t : t + 1]), rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("name", ["b-shards", "b-single", "c-bfloat16"])
def test_linked_weights_give_what_copied_weights_give(name, export_variant):
    dtype = "bfloat16" if VARIANTS[name].dtype == torch.bfloat16 else "float32"
    model, checkpoint, copied = export_variant(name, dtype)
    _, source, linked = export_variant(name, dtype, link_weights=True)
    shards = {f.stat().st_ino for f in source.iterdir()}
    shared = [f for f in linked.iterdir() if f.stat().st_ino in shards]
    assert shared, "no file of the checkpoint is linked into the bundle"
    written = linked / "model.weights"
    if dtype == "float32":
        assert not written.exists(), "float32 weights need no copy at all"
    else:
        assert written.stat().st_size < 0.2 * (copied / "model.weights").stat().st_size
    inputs = random_inputs(model, 1, 8).numpy()
    assert not is_block_stack(model)
    with open_session(copied) as a, open_session(linked) as b:
        for t in range(8):
            np.testing.assert_array_equal(a.step(inputs[:, t : t + 1]), b.step(inputs[:, t : t + 1]))
