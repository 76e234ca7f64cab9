"""Forecasts of a bundle against upstream's own: how far they part, and how well both foretell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from ..bundle.forecast import ForecastSpec
from ..forecasting import Forecaster
from ..forecasting.windows import Scaling, windows_of
from ..references import UpstreamModel
from . import metrics
from .scenarios import ForecastScore, Recorder, Scenario

PATCHES = 4  # of the horizon
SERIES = 12


@runtime_checkable
class ForecastingModel(Protocol):
    """An upstream model that forecasts by itself."""

    def forecast(self, series: Sequence[np.ndarray], horizon: int, rollout: int) -> np.ndarray:
        """N series in float32, NaN where missing → quantiles (N, horizon, Q), `rollout` patches from one window."""

    def as_shipped(self) -> ForecastingModel:
        """The same model with whatever its reference leaves out of upstream's code."""


def quantile_loss(values: np.ndarray, levels: tuple[float, ...], truth: np.ndarray) -> np.ndarray:
    """max(q (y - x), (q - 1) (y - x)) of quantiles x (N, H, Q) and what came, y (N, H): (N, H, Q)."""
    above = truth[..., None] - values
    return np.maximum(np.array(levels) * above, (np.array(levels) - 1) * above)


def make_series(spec: ForecastSpec, horizon: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Seasons, trends, walks and noise, from a patch to two windows long, some with gaps; and what came after each."""
    random = np.random.default_rng(seed)
    rows, futures = [], []
    for index in range(SERIES):
        length = int(random.integers(spec.patch, 2 * spec.context))
        t = np.arange(length + horizon)
        values = np.sin(2 * np.pi * t / random.integers(6, 48)) + 0.1 * random.standard_normal(len(t))
        values += random.normal() * t / spec.context
        if index % 3 == 0:
            values += 0.2 * np.cumsum(random.standard_normal(len(t)))
        values *= 10.0 ** random.integers(-2, 4)
        row = values[:length].astype(np.float32)
        futures.append(values[length:])
        if index % 2:
            row[random.random(length) < 0.2] = np.nan
        rows.append(row)
    return rows, np.array(futures)


def run_forecasts(
    forecaster: Forecaster, reference: UpstreamModel, nudged: UpstreamModel, seed: int
) -> tuple[Scenario, ...]:
    """Both kinds of rollout over some patches: a window for each patch, where the model has that, and one for all.

    Errors are recorded by the point of the horizon, as others are by the step; the second run has a `ForecastScore`.
    """
    spec = forecaster.spec
    patches = min(PATCHES, (spec.horizon or PATCHES * spec.patch) // spec.patch)
    horizon = patches * spec.patch
    rows, futures = make_series(spec, horizon, seed)
    ways = [(1, "forecasts, a window for each patch"), (patches, "forecasts, all patches of one window")]
    scenarios = []
    for rollout, what in ways if spec.horizon is None else ways[1:]:
        expected, moved = (_forecast(model, rows, horizon, rollout) for model in (reference, nudged))
        actual = forecaster.forecast(rows, horizon, rollout if spec.horizon is None else None)
        recorder = Recorder(1, "quantiles")
        for point in range(horizon):
            recorder.outputs(point, expected[:, point], moved[:, point], actual[:, point])
        name = "rollout" if what == ways[1][1] else "forecast"
        score = None
        if name == "rollout":
            assert isinstance(reference, ForecastingModel)
            shipped = reference.as_shipped().forecast(rows, horizon, rollout)
            scale = Scaling.of(windows_of(rows, spec), spec.scaler).scale
            score = _score(spec, scale, futures, expected, actual, shipped)
        scenarios.append(recorder.scenario(name, what, len(rows), horizon, forecast=score))
    return tuple(scenarios)


def _forecast(model: UpstreamModel, rows: Sequence[np.ndarray], horizon: int, rollout: int) -> np.ndarray:
    assert isinstance(model, ForecastingModel)
    return model.forecast(rows, horizon, rollout)


def _score(
    spec: ForecastSpec,
    scale: np.ndarray,
    futures: np.ndarray,
    expected: np.ndarray,
    actual: np.ndarray,
    shipped: np.ndarray,
) -> ForecastScore:
    patches = expected.shape[1] // spec.patch

    def by_patch(values: np.ndarray) -> np.ndarray:
        """(N, H, Q) in units of the scale, a patch in a row."""
        return (values / scale[..., None]).swapaxes(0, 1).reshape(patches, -1)

    errors = [metrics.finite_or_inf(by_patch(np.abs(other - expected))).max(-1) for other in (actual, shipped)]
    losses = [by_patch(quantile_loss(values, spec.quantiles, futures)).mean(-1) for values in (actual, expected)]
    horizons = tuple((1 + patch) * spec.patch for patch in range(patches))
    return ForecastScore(horizons, *(tuple(map(float, values)) for values in (*errors, *losses)))
