"""The measures of validation against plain NumPy written out."""

import numpy as np
import pytest

from xlstm_export.validation import metrics


@pytest.fixture
def pair():
    """Logits (5, 11) and the same with small errors."""
    rng = np.random.default_rng(0)
    reference = (3 * rng.standard_normal((5, 11))).astype(np.float32)
    return reference, reference + (0.05 * rng.standard_normal((5, 11))).astype(np.float32)


def test_relative_error_is_the_largest_difference_over_max_minus_min_of_the_reference(pair):
    reference, actual = pair
    expected = [max(abs(a - r)) / (max(r) - min(r)) for r, a in zip(reference, actual, strict=True)]
    np.testing.assert_allclose(metrics.relative_error(reference, actual), expected, rtol=1e-6)


def test_nan_is_an_infinite_error_and_not_a_small_one(pair):
    reference, actual = pair
    actual[2, 3] = np.nan
    for measure in (metrics.relative_error, metrics.kl_divergence):
        error = measure(reference, actual)
        assert error[2] == np.inf
        assert np.isfinite(error[[0, 1, 3, 4]]).all()
    state = np.ones((2, 3, 4), np.float32)
    broken = state.copy()
    broken[1, 2, 3] = np.nan
    assert metrics.state_error("blocks.0.mlstm.n", state, broken) == np.inf
    assert metrics.negative_log_likelihood(actual, np.zeros(5, int))[2] == np.inf


def test_kl_divergence_is_the_sum_over_p_log_p_over_q(pair):
    reference, actual = (x.astype(np.float64) for x in pair)
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (reference, actual))
    np.testing.assert_allclose(metrics.kl_divergence(*pair), (p * np.log(p / q)).sum(-1), rtol=1e-9)


def test_kl_divergence_keeps_to_hoeffdings_bound_and_ignores_offsets(pair):
    """KL <= (max d - min d)^2 / 8 with d the difference of the logits: what a tolerance on logits promises."""
    reference, actual = pair
    kl = metrics.kl_divergence(reference, actual)
    assert (kl <= np.ptp(actual.astype(np.float64) - reference, -1) ** 2 / 8).all()
    np.testing.assert_allclose(metrics.kl_divergence(reference, reference + 4), 0, atol=1e-12)


def test_log_softmax_does_not_overflow():
    np.testing.assert_allclose(metrics.log_softmax(np.float32([[1e4, 1e4]])), [[-np.log(2)] * 2])


def test_top_one_gap_says_how_close_the_choice_was():
    reference = np.float32([[0, 4, 3], [5, 1, 0], [2, 2, 0]])
    actual = np.float32([[0, 1, 2], [5, 1, 0], [0, 9, 0]])
    np.testing.assert_allclose(metrics.top_one_gap(reference, actual), [0.25, 0, 0])


def test_negative_log_likelihood_of_a_uniform_prediction_is_log_v():
    nats = metrics.negative_log_likelihood(np.zeros((2, 7), np.float32), np.array([0, 6]))
    np.testing.assert_allclose(nats, np.log(7))


def test_state_error_is_relative_to_the_largest_value_of_row_and_head():
    rng = np.random.default_rng(1)
    reference = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    reference[1, 2] *= 1e-3  # a small head counts as much as a large one
    actual = reference.copy()
    actual[1, 2, 0, 0] += 1e-4
    expected = 1e-4 / np.abs(reference[1, 2]).max()
    assert metrics.state_error("blocks.0.mlstm.C", reference, actual) == pytest.approx(expected, rel=1e-3)


def test_stabilisers_have_a_scale_of_one_at_least():
    reference, actual = np.float32([[0.01, -40.0]]), np.float32([[0.03, -40.0]])
    assert metrics.state_error("blocks.0.mlstm.m", reference, actual) == pytest.approx(0.02, rel=1e-5)
    actual = np.float32([[0.01, -40.4]])
    assert metrics.state_error("blocks.0.mlstm.m", reference, actual) == pytest.approx(0.01, rel=1e-4)


def test_convolution_windows_have_one_scale_a_row():
    reference = np.zeros((2, 3, 4), np.float32)
    reference[0, 2, 1], reference[1, 0, 0] = 8, 2
    actual = reference.copy()
    actual[0, 0, 3] += 1
    assert metrics.state_error("blocks.0.mlstm.conv", reference, actual) == pytest.approx(1 / 8)


def test_states_of_lstm_layers_have_one_scale_a_row():
    reference, actual = np.float32([[8, 1e-6], [1, 2]]), np.float32([[8, 1e-3], [1, 2]])
    for name in ("lstm.l0.h", "lstm.l0.c"):
        assert metrics.state_error(name, reference, actual) == pytest.approx(1e-3 / 8, rel=1e-2)


def test_a_state_that_should_be_zero_and_is_not_is_an_error():
    zeros = np.zeros((1, 2, 3), np.float32)
    assert metrics.state_error("blocks.0.slstm.c", zeros, zeros) == 0
    assert metrics.state_error("blocks.0.slstm.c", zeros, zeros + 1e-3) > 1
