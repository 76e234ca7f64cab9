"""Forecasts a second, beside what a streamed patch costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..forecasting import Forecaster, ForecastStream
from ..runtime import Session
from .stopwatch import median_seconds

HORIZON = 64
_RUNS, _PATCHES = 5, 20


@dataclass(frozen=True)
class ForecastTiming:
    """Seconds at the median, of `batch` series side by side."""

    batch: int
    context: int
    """Points of each series: a whole window."""
    horizon: int
    window_seconds: float
    """Of forecasts as upstream makes them by default: of TiRex, from a window for each patch of the horizon."""
    rollout_seconds: float | None
    """Of TiRex's forecasts whose patches are all taken from one window."""
    patch_seconds: float
    """Of a stream's next patch, with the forecast of the patch after it."""

    @property
    def forecasts_per_second(self) -> float:
        return self.batch / self.window_seconds


def time_forecasts(session: Session) -> ForecastTiming:
    """Forecast random walks; the session's states are overwritten."""
    forecaster = Forecaster(session)
    spec, random = forecaster.spec, np.random.default_rng(0)
    series = np.cumsum(random.standard_normal((session.batch, spec.context)), 1)
    horizon, patches = min(HORIZON, spec.horizon or HORIZON), -(-HORIZON // spec.patch)
    window = median_seconds(lambda: forecaster.forecast(list(series), horizon), _RUNS)
    rollout = None
    if spec.horizon is None:
        rollout = median_seconds(lambda: forecaster.forecast(list(series), horizon, patches), _RUNS)
    stream, points = ForecastStream(session, list(series), drift=None), series[:, -spec.patch :]
    patch = median_seconds(lambda: (stream.push(points), stream.forecast(spec.patch)), _PATCHES)
    return ForecastTiming(session.batch, spec.context, horizon, window, rollout, patch)
