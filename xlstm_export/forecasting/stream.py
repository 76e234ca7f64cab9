"""Forecasts that go along with series as their points arrive, at a constant cost for each patch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ErrorKind, UserError
from ..runtime import Session
from .forecaster import Forecaster, check_horizon
from .trends import Reading, last_values
from .windows import Scaling, patches_of, quantiles_of, read_series, windows_of

DEFAULT_DRIFT = 0.25
"""Of the scale: by how much a window may have moved before it is read anew."""


class ForecastStream:
    """B series that advance together, a point each at a time: one step of the model for every P points.

    It differs from `Forecaster` in three ways, which is why it is cheap. The scale is that of the window it began with,
    and whether a series is fed as differences was settled there, from the newest W + 1 points. The states have seen all
    points since then, not the newest W alone. Patches end at every P-th point since then, and a forecast is made where
    one ends: in between, it is that of the last one without the points that have arrived.

    It begins anew (`refresh`: a window is run, and all is as in a `Forecaster`) by this rule: where a patch ends, loc
    and scale of the newest W points are held against those in use. A refresh is due when for some row loc has moved by
    more than `drift` times the scale in use, or the scale has grown or shrunk by more than a factor of 1 + `drift`, or
    it has got or lost a trend.

    Args:
        session: of a forecaster's bundle; it belongs to the stream.
        series: B arrays, what is known of each series, the newest value last, NaN where missing. They may be empty.
        drift: None: no refresh but those that are called for.

    Attributes:
        refreshes: how many times it began anew by the rule.

    Raises:
        UserError: the bundle is no forecaster, there are not B series, or one has an infinite value.
    """

    def __init__(self, session: Session, series: Sequence[np.ndarray], drift: float | None = DEFAULT_DRIFT):
        self._forecaster, self._session, self._drift = Forecaster(session), session, drift
        self.spec, self.refreshes = self._forecaster.spec, 0
        if len(series) != session.batch:
            raise UserError(ErrorKind.argument, f"{len(series)} series for a session of batch {session.batch}.")
        if drift is not None and not drift > 0:
            raise UserError(ErrorKind.argument, f"The drift is {drift}; give a number above 0, or none.")
        rows = [read_series(row, f"series {index}") for index, row in enumerate(series)]
        self._rows = [row[-self._kept :] for row in rows]
        self.refresh()

    @property
    def _kept(self) -> int:
        """Points of each series: those of a window, and the one that the first of them is told from."""
        return self.spec.context + 1

    def refresh(self) -> None:
        """Begin anew from the newest W points, with their own scale; a patch ends at the newest point."""
        self._reading = Reading.of(self._rows, self.spec)
        self._levels, self._pending = self._reading.levels, 0
        window = windows_of(self._reading.fed(self._rows), self.spec)
        self._scaling = Scaling.of(window, self.spec.scaler)
        self._outputs = self._forecaster.run_window(patches_of(self._scaling.apply(window), self.spec.patch))

    def push(self, points: np.ndarray) -> int:
        """Take the next points of every series, (B, T) or (B), NaN where missing; returns how many patches they ended.

        Raises:
            UserError: another number of series, or an infinite value. Nothing is taken then.
        """
        given = np.asarray(points)
        block = given.reshape(len(given), -1) if given.ndim in (1, 2) else given
        if block.ndim != 2 or len(block) != self._session.batch:
            raise UserError(
                ErrorKind.argument, f"points have shape {given.shape}, expected ({self._session.batch}, points)."
            )
        new = np.stack([read_series(row, f"series {index}") for index, row in enumerate(block)])
        ended = 0
        while new.shape[1]:
            part = new[:, : self.spec.patch - self._pending]
            new = new[:, part.shape[1] :]
            self._rows = [
                np.concatenate([row, more])[-self._kept :] for row, more in zip(self._rows, part, strict=True)
            ]
            self._pending += part.shape[1]
            if self._pending == self.spec.patch:
                self._end_patch()
                ended += 1
        return ended

    def _end_patch(self) -> None:
        window = windows_of(self._reading.fed(self._rows), self.spec)
        if self._is_due(window):
            self.refresh()
            self.refreshes += 1
            return
        scaled = self._scaling.apply(window[:, -self.spec.patch :])
        self._levels, self._pending = last_values(self._rows), 0
        self._outputs = self._session.step(patches_of(scaled, self.spec.patch))

    def _is_due(self, window: np.ndarray) -> bool:
        if self._drift is None:
            return False
        if (Reading.of(self._rows, self.spec).differenced != self._reading.differenced).any():
            return True
        now, used = Scaling.of(window, self.spec.scaler), self._scaling
        moved = np.abs(now.loc - used.loc) > self._drift * used.scale
        ratio = now.scale / used.scale
        return bool((moved | (ratio > 1 + self._drift) | (ratio * (1 + self._drift) < 1)).any())

    def forecast(self, horizon: int) -> np.ndarray:
        """What comes after the newest point: quantiles (B, H, Q) float32 in the units of the series.

        Patches beyond the first are forecast from patches without a value (FORMAT.md's rollout). They are kept until
        the next patch ends, and the states are as they were.
        """
        check_horizon(horizon, self.spec)
        points = self._pending + horizon
        count = -(-points // self.spec.patch)
        if count > self._outputs.shape[1]:
            states = self._session.read_states()
            more = [self._forecaster.run_missing() for _ in range(count - 1)]  # the first one follows from the states
            self._session.write_states(states)
            self._outputs = np.concatenate([self._outputs[:, :1], *more], 1)
        quantiles = self._scaling.undo(quantiles_of(self._outputs[:, :count], self.spec.patch)[:, :points])
        return self._reading.points(quantiles, self._levels)[:, self._pending :]
