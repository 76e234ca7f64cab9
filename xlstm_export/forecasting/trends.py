"""Series that rise or fall throughout are fed as differences; bands are stretched. FORMAT.md's section on forecasts.

The formulas are those of upstream's `PostProcessor` (`tirex2/model/component/postprocessor.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..bundle.forecast import Calibration, Differencing, ForecastSpec

_FEWEST = 4  # values that a line is fitted to
_LEAST = 1e-12  # standard deviation of a series with a trend


@dataclass(frozen=True)
class Reading:
    """How B series are fed, and how what comes out is read: settled where a window begins."""

    spec: ForecastSpec
    differenced: np.ndarray
    """(B) bool."""
    levels: np.ndarray
    """(B) float32: the last value there, where differences go on from."""

    @staticmethod
    def of(rows: Sequence[np.ndarray], spec: ForecastSpec) -> Reading:
        """Of series in float32, NaN where missing."""
        rule = spec.differencing
        differenced = [rule is not None and has_trend(row, rule) for row in rows]
        return Reading(spec, np.array(differenced, bool), last_values(rows))

    def fed(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The series as the model is fed them, as long as they are."""
        return [differences(row) if is_it else row for row, is_it in zip(rows, self.differenced, strict=True)]

    def points(self, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Quantiles (B, H, Q) float32 of what was fed, from its end on, as those of series that ended at `levels`."""
        rule, result = self.spec.differencing, quantiles
        if self.spec.calibration is not None:
            result = _stretched(quantiles, self.spec.calibration)
        if rule is not None and self.differenced.any():
            summed = _summed(quantiles, rule.band) + levels[:, None, None]
            result = np.where(self.differenced[:, None, None], summed, result)
        return result


def has_trend(row: np.ndarray, rule: Differencing) -> bool:
    """Whether a line explains the series: least squares over the values that are there, in float64."""
    there = np.flatnonzero(~np.isnan(row))
    if len(there) < _FEWEST:
        return False
    values, at = row[there].astype(np.float64), there.astype(np.float64)
    values -= values.mean()
    at -= at.mean()
    total, shared, spread = values @ values, at @ values, at @ at
    deviation = np.sqrt(total / (len(there) - 1))
    if deviation < _LEAST:
        return False
    score, r_squared = abs(shared) / spread / deviation * len(row), shared * shared / (spread * total)
    return bool(score >= rule.score and r_squared >= rule.r_squared)


def differences(row: np.ndarray) -> np.ndarray:
    """What each point adds to the one before it, NaN where either is missing; zero at the first."""
    return np.concatenate([np.zeros_like(row[:1]), np.diff(row)])


def last_values(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Of each series, the last value that is there, (B) float32; zero where there is none."""
    there = [row[~np.isnan(row)][-1:] for row in rows]
    return np.array([values[0] if len(values) else 0 for values in there], np.float32)


def _parts(quantiles: np.ndarray, band: Calibration) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The median (B, H, 1), offsets from it (B, H, Q), and the factors on these (H, 1)."""
    middle = quantiles.shape[-1] // 2
    median = quantiles[..., middle : middle + 1]
    steps = np.arange(1, 1 + quantiles.shape[1], dtype=np.float32)[:, None]
    factors = np.float32(band.band_scale**0.5) * steps ** np.float32(band.band_exponent - 0.5)
    return median, quantiles - median, factors


def _stretched(quantiles: np.ndarray, band: Calibration) -> np.ndarray:
    median, offsets, factors = _parts(quantiles, band)
    return median + factors * offsets


def _summed(quantiles: np.ndarray, band: Calibration) -> np.ndarray:
    """Of quantiles of differences: the sum of the medians, and bands that widen as if the steps were independent."""
    median, offsets, factors = _parts(quantiles, band)
    sign = np.sign(offsets.sum(1, np.float64, keepdims=True))
    width = np.sqrt(np.square(offsets, dtype=np.float64).cumsum(1))
    return median.cumsum(1, np.float64).astype(np.float32) + factors * (sign * width).astype(np.float32)
