"""Between series and patches: windows, their scale, the model's input. FORMAT.md's section on forecasts, in NumPy.

The formulas are those of upstream's scalers (`tirex/models/patcher.py`, `tirex2/model/component/scaler.py`), which add
up in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..bundle.forecast import ForecastSpec, Scaler
from ..errors import ErrorKind, UserError

_LEAST = 1e-5
"""What the scale of a constant window is beyond its distance from zero."""
_LARGEST = np.float32(20)
"""What sinh is given at most, either way."""


@dataclass(frozen=True)
class Scaling:
    """`loc` and `scale` of each row, (B, 1) float32."""

    loc: np.ndarray
    scale: np.ndarray
    bent: np.ndarray
    """(B, 1) bool: which rows go through arcsinh."""

    @staticmethod
    def of(windows: np.ndarray, scaler: str | Scaler) -> Scaling:
        """From windows (B, W) float32, NaN where missing: mean and standard deviation of what is there."""
        there = ~np.isnan(windows)
        count = there.sum(-1, keepdims=True)
        some = count > 0
        total = np.where(there, windows, 0).sum(-1, dtype=np.float64, keepdims=True)
        loc = np.divide(total, count, out=np.zeros(total.shape), where=some).astype(np.float32)
        squares = np.square(np.where(there, windows - loc, 0), dtype=np.float64).sum(-1, keepdims=True)
        scale = np.sqrt(np.divide(squares, count, out=np.ones(squares.shape), where=some)).astype(np.float32)
        if not isinstance(scaler, Scaler):
            return Scaling(loc, np.where(scale == 0, np.abs(loc) + np.float32(_LEAST), scale), np.zeros_like(some))
        plain = ((windows == 0) | (windows == 1) | ~there).all(-1, keepdims=True) & scaler.binary
        loc, scale = np.where(plain, 0, loc), np.where(plain, 1, np.maximum(scale, np.float32(scaler.floor)))
        return Scaling(loc.astype(np.float32), scale.astype(np.float32), scaler.arcsinh & ~plain)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """(B, T) as the model sees them."""
        scaled = (values - self.loc) / self.scale
        return np.arcsinh(scaled, out=scaled, where=self.bent)

    def undo(self, values: np.ndarray) -> np.ndarray:
        """Quantiles (B, T, Q) in the units of the series."""
        if self.bent.any():
            bounded = np.clip(values, -_LARGEST, _LARGEST)
            values = np.sinh(bounded, out=values.copy(), where=self.bent[..., None])
        return values * self.scale[..., None] + self.loc[..., None]


def read_series(series: np.ndarray | Sequence[float], name: str) -> np.ndarray:
    """A series of one dimension in float32, NaN where missing.

    Raises:
        UserError: it has another shape, or a value that is infinite (in float32); `name` says which series it is.
    """
    given = np.asarray(series)
    if given.ndim != 1 or given.dtype.kind not in "fiu":
        raise UserError(
            ErrorKind.argument,
            f"{name} is {given.dtype} of shape {given.shape}, not numbers of one dimension. Give several as a list.",
        )
    with np.errstate(over="ignore"):
        values = given.astype(np.float32)
    if len(wrong := np.flatnonzero(np.isinf(values))):
        raise UserError(
            ErrorKind.argument,
            f"{name} has the value {given[wrong[0]]} at {wrong[0]}, which float32 does not hold. Give NaN for what is "
            "missing, and scale what is too large.",
        )
    return values


def windows_of(rows: Sequence[np.ndarray], spec: ForecastSpec) -> np.ndarray:
    """The newest W values of each series, (B, W) float32; missing before the first where a series is shorter."""
    windows = np.full((len(rows), spec.context), np.nan, np.float32)
    for window, row in zip(windows, rows, strict=True):
        if len(newest := row[-spec.context :]):
            window[-len(newest) :] = newest
    return windows


def patches_of(scaled: np.ndarray, patch: int) -> np.ndarray:
    """The model's input from scaled values (B, k P), NaN where missing: (B, k, 2 P)."""
    values = scaled.reshape(len(scaled), -1, patch)
    missing = np.isnan(values)
    return np.concatenate([np.where(missing, 0, values), ~missing], -1, dtype=np.float32)


def quantiles_of(outputs: np.ndarray, patch: int) -> np.ndarray:
    """The model's outputs (B, k, Q P) as points in their order: (B, k P, Q)."""
    rows, count, _ = outputs.shape
    return outputs.reshape(rows, count, -1, patch).swapaxes(2, 3).reshape(rows, count * patch, -1)
