"""Forecasts a second, beside what a streamed patch costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..forecasting import Forecaster, ForecastStream
from ..runtime import Session

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
    window = _median(lambda: forecaster.forecast(list(series), horizon), _RUNS)
    rollout = None
    if spec.horizon is None:
        rollout = _median(lambda: forecaster.forecast(list(series), horizon, patches), _RUNS)
    stream, points = ForecastStream(session, list(series), drift=None), series[:, -spec.patch :]
    patch = _median(lambda: (stream.push(points), stream.forecast(spec.patch)), _PATCHES)
    return ForecastTiming(session.batch, spec.context, horizon, window, rollout, patch)


def _median(run: Callable[[], object], count: int) -> float:
    """Seconds of one of so many runs, after one to warm up."""
    times = []
    for _ in range(1 + count):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))
