"""What variants of a model predict, token by token, against one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime import Session
from ..validation import metrics
from ..validation.texts import TextTokens

_QUARTERS = 4


@dataclass(frozen=True)
class Quality:
    """One variant over a run, from zero states."""

    error: float
    """The median over the steps of `metrics.relative_error`: of the outputs, relative to their spread."""
    kl: float | None
    """KL divergence from the reference's predictions to the variant's, mean over the tokens, nats; None: no logits."""
    top_one: float | None
    """The share of tokens at which both put the same one first."""
    drift: float | None
    """By how much the last quarter of the run diverges more than the first (mean KL, or error); None: it does not
    diverge, or the run is too short."""
    bits_per_byte: float | None
    """Of the text; None: there was none."""
    bits_error: float | None
    """The standard error of its difference from the reference's, were the tokens independent."""


def measure_quality(
    sessions: Sequence[Session],
    reference: int,
    inputs: np.ndarray,
    text: TextTokens | None,
    tick: Callable[[int], None],
) -> list[Quality]:
    """Feed all sessions the same and compare what they give.

    Args:
        sessions: with zero states.
        reference: which of them the others are compared with.
        inputs: tokens (T, B) int64, or vectors (T, B, D) float32.
        text: what the tokens are of; None: they are random.
        tick: called with 1 after each step.
    """
    logits = sessions[0].manifest.gives_logits
    diverged = np.zeros((len(sessions), len(inputs)))
    errors, agreed = np.zeros_like(diverged), np.zeros(len(sessions))
    nats = np.zeros((len(sessions), *inputs.shape[:2]))
    for step, row in enumerate(inputs):
        outputs = [session.step(row[:, None])[:, 0] for session in sessions]
        expected = outputs[reference]
        for index, actual in enumerate(outputs):
            errors[index, step] = metrics.relative_error(expected, actual).max()
            if logits:
                diverged[index, step] = metrics.kl_divergence(expected, actual).mean()
                agreed[index] += np.mean(metrics.top_one_gap(expected, actual) == 0)
            if text is not None:
                nats[index, step] = metrics.negative_log_likelihood(actual, text.targets[step])
        tick(1)
    return [
        Quality(
            error=float(np.median(errors[index])),
            kl=float(diverged[index].mean()) if logits else None,
            top_one=float(agreed[index] / len(inputs)) if logits else None,
            drift=_drift(diverged[index] if logits else errors[index]),
            bits_per_byte=None if text is None else float(nats[index].sum()) / (math.log(2) * text.bytes),
            bits_error=None if text is None else _standard_error(nats[index] - nats[reference], text.bytes),
        )
        for index in range(len(sessions))
    ]


def _standard_error(differences: np.ndarray, size: int) -> float:
    """Of the sum of so many independent differences in nats, in bits for each of `size` bytes."""
    return float(differences.std() * math.sqrt(differences.size)) / (math.log(2) * size)


def _drift(series: np.ndarray) -> float | None:
    quarter = len(series) // _QUARTERS
    if not quarter or not series[:quarter].any():
        return None
    return float(series[-quarter:].mean() / series[:quarter].mean())
