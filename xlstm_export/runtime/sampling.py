"""From logits to a token: greedy, temperature, top-k, top-p.

The random numbers are those of MT19937 with 53 bits a draw (numpy's frozen `RandomState`), so that a C++ program
with `std::mt19937` draws the same tokens from the same seed.

Logits that are not finite come from a broken model. What is chosen is defined all the same: a NaN counts as the
greatest logit, and where the greatest, divided by the temperature, is not finite, it is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ErrorKind, UserError


@dataclass(frozen=True)
class Sampling:
    """How to choose: `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep every token."""

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(
                ErrorKind.argument, f"temperature is {self.temperature}: give 0 (greedy) or a positive number."
            )
        if self.top_k < 0:
            raise UserError(ErrorKind.argument, f"top-k is {self.top_k}: give 0 (all tokens) or a positive number.")
        if not 0 < self.top_p <= 1:
            raise UserError(ErrorKind.argument, f"top-p is {self.top_p}: give a number above 0 and up to 1.")
        if not 0 <= self.seed < 2**32:
            raise UserError(ErrorKind.argument, f"seed is {self.seed}: give a number from 0 to {2**32 - 1}.")


class Sampler:
    """Draws tokens, one after another, from one stream of random numbers."""

    def __init__(self, sampling: Sampling):
        self.sampling = sampling
        self._random = np.random.RandomState(sampling.seed)

    def __call__(self, logits: np.ndarray) -> int:
        """Choose from logits (V) float32. Ties go to the lower token."""
        s = self.sampling
        best = int(np.argmax(logits))
        if s.temperature == 0:
            return best
        random = self._random.random_sample()
        if not np.isfinite(float(logits[best]) / s.temperature):
            return best
        order = np.argsort(-logits, kind="stable")
        if s.top_k:
            order = order[: s.top_k]
        scaled = logits[order].astype(np.float64) / s.temperature
        cumulative = np.cumsum(np.exp(scaled - scaled[0]))
        if s.top_p < 1:
            kept = int(np.searchsorted(cumulative, s.top_p * cumulative[-1])) + 1
            cumulative = cumulative[:kept]
        chosen = int(np.searchsorted(cumulative, random * cumulative[-1], side="right"))
        return int(order[min(chosen, len(cumulative) - 1)])
