"""What is measured: plain functions of two arrays, `reference` first. NaN in the actual values is an infinite error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_TINY = float(np.finfo(np.float32).tiny)


def spread(reference: np.ndarray) -> np.ndarray:
    """max - min over the last axis: the scale on which logits mean something (softmax ignores their offset)."""
    return reference.max(-1) - reference.min(-1)


def relative_error(reference: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Largest absolute difference over the last axis, divided by the spread of the reference: (N, V) → (N,)."""
    return finite_or_inf(np.abs(actual - reference).max(-1)) / np.maximum(spread(reference), _TINY)


def kl_divergence(reference: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """KL(softmax(reference) ‖ softmax(actual)) in nats, float64: (N, V) → (N,)."""
    p, q = log_softmax(reference), log_softmax(actual)
    return finite_or_inf((np.exp(p) * (p - q)).sum(-1))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities in float64."""
    logits = logits.astype(np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def top_one_gap(reference: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """By how much the reference prefers its own best token to the one that `actual` puts first: (N, V) → (N,).

    In units of the reference's spread; 0 where both agree (or the reference has an exact tie).
    """
    chosen = np.take_along_axis(reference, actual.argmax(-1)[:, None], -1)[:, 0]
    return (reference.max(-1) - chosen) / np.maximum(spread(reference), _TINY)


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log p(target) in nats, float64: (N, V) and (N,) → (N,)."""
    return finite_or_inf(-np.take_along_axis(log_softmax(logits), targets[:, None], -1)[:, 0])


def state_error(name: str, reference: np.ndarray, actual: np.ndarray) -> float:
    """Largest difference of a state, relative to its scale.

    The scale is the largest reference value in the same row and head (windows of convolutions, and what LSTM and GRU
    layers keep, have no heads): every head's output is normalised on its own, so a small head counts as much as a large
    one. Stabilisers (`m`) act as exp(m): their scale is at least 1.
    """
    kind = name.rsplit(".", 1)[-1]
    has_heads = kind == "m" or kind in ("C", "n", "y", "c") and reference.ndim > 2
    axes = tuple(range(2 if has_heads else 1, reference.ndim))
    scale = np.abs(reference).max(axes, keepdims=True) if axes else np.abs(reference)
    scale = np.maximum(scale, 1.0 if kind == "m" else _TINY)
    return float(finite_or_inf(np.abs(actual - reference) / scale).max(initial=0.0))


def state_errors(reference: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> dict[str, float]:
    """`state_error` of every state, in the order of `reference`."""
    return {name: state_error(name, value, actual[name]) for name, value in reference.items()}


def finite_or_inf(values: np.ndarray) -> np.ndarray:
    """The same, with an infinite error where there is NaN."""
    return np.where(np.isnan(values), np.inf, values)


def overall_scale(references: Sequence[np.ndarray]) -> float:
    """max - min of all values of an output; where it is constant, its size, or 1 where it is zero.

    An output may have one value only at a position, so that the spread of one position means nothing.
    """
    low, high = min(float(r.min()) for r in references), max(float(r.max()) for r in references)
    return high - low or abs(high) or 1.0


def largest_difference(reference: np.ndarray, actual: np.ndarray) -> float:
    """The largest absolute difference; infinite where the shapes differ, or one value is NaN where the other is not."""
    if reference.shape != actual.shape:
        return float("inf")
    difference = np.abs(actual.astype(np.float64) - reference)
    same = (np.isnan(actual) & np.isnan(reference)) | (actual == reference)
    return float(finite_or_inf(np.where(same, 0.0, difference)).max(initial=0.0))
