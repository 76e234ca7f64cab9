"""Exact forecasts: what upstream gives for the same series."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..bundle.forecast import ForecastSpec
from ..errors import ErrorKind, UserError
from ..runtime import Session
from .trends import Reading
from .windows import Scaling, patches_of, quantiles_of, read_series, windows_of

States = dict[str, np.ndarray]


def forecast_spec(session: Session) -> ForecastSpec:
    """How the session's bundle is fed.

    Raises:
        UserError: it is no forecaster.
    """
    if session.manifest.forecast is None:
        raise UserError(
            ErrorKind.argument,
            f"{session.bundle.path} is no forecaster: its manifest has no `forecast`. Give a bundle of TiRex.",
        )
    return session.manifest.forecast


def check_horizon(horizon: int, spec: ForecastSpec) -> None:
    if horizon < 1:
        raise UserError(ErrorKind.argument, f"The horizon is {horizon}; give 1 or more points.")
    if spec.horizon is not None and horizon > spec.horizon:
        raise UserError(
            ErrorKind.argument, f"The horizon is {horizon}; this model forecasts {spec.horizon} points at most."
        )


class Forecaster:
    """Forecasts of any number of series, each from its newest `context` points.

    Whether a series has a trend, where that matters (`ForecastSpec.differencing`), is asked of all its points. The
    leading patches of a window without a value lead to states that are the model's constants: they are computed once.

    Args:
        session: of a forecaster's bundle. Its states are overwritten.

    Raises:
        UserError: the bundle is no forecaster.
    """

    def __init__(self, session: Session):
        self.spec = forecast_spec(session)
        self._session = session
        self._padding: list[States] = []
        """After so many patches without a value, of one row."""

    @property
    def quantiles(self) -> tuple[float, ...]:
        """The levels, Q of them, in the order of a forecast's last axis."""
        return self.spec.quantiles

    def forecast(
        self,
        series: Sequence[np.ndarray],
        horizon: int,
        rollout: int | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> np.ndarray:
        """What comes after each series.

        Args:
            series: N arrays of one dimension and any length, the newest value last, NaN where missing.
            horizon: points to forecast, H.
            rollout: patches that one window is used for (TiRex's `max_accelerated_rollout_steps`). 1 runs a window
                for each patch; more are faster over long horizons, and another forecast. None: what upstream does
                unless told otherwise, which is 1 of TiRex, and all of TiRex-2, which takes no other.
            progress: told of each batch's number of series.

        Returns:
            Quantiles (N, H, Q) float32 in the units of the series. The array belongs to the caller.

        Raises:
            UserError: a horizon or rollout that the model does not take, or a series that is not of one dimension or
                has an infinite value.
        """
        check_horizon(horizon, self.spec)
        rollout = self._rollout(horizon, rollout)
        rows = [read_series(row, f"series {index}") for index, row in enumerate(series)]
        result = np.empty((len(rows), horizon, len(self.quantiles)), np.float32)
        size = self._session.batch
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            idle = [np.empty(0, np.float32)] * (size - len(some))
            result[start : start + size] = self._forecast([*some, *idle], horizon, rollout)[: len(some)]
            progress(len(some))
        return result

    def _rollout(self, horizon: int, rollout: int | None) -> int:
        if self.spec.horizon is None:
            if rollout is not None and rollout < 1:
                raise UserError(ErrorKind.argument, f"The rollout is {rollout}; give 1 or more patches.")
            return rollout or 1
        if rollout is not None:
            raise UserError(
                ErrorKind.argument, "This model takes all patches of a forecast from one window: give no rollout."
            )
        return -(-horizon // self.spec.patch)

    def _forecast(self, rows: Sequence[np.ndarray], horizon: int, rollout: int) -> np.ndarray:
        patch, parts = self.spec.patch, []
        reading = Reading.of(rows, self.spec)
        windows = windows_of(reading.fed(rows), self.spec)
        remaining = -(-horizon // patch)
        while remaining:
            rollout = min(rollout, remaining)
            scaling = Scaling.of(windows, self.spec.scaler)
            outputs = [self.run_window(patches_of(scaling.apply(windows), patch))]
            outputs += [self.run_missing() for _ in range(rollout - 1)]
            parts.append(scaling.undo(quantiles_of(np.concatenate(outputs, 1), patch)))
            remaining -= rollout
            windows = np.pad(windows[:, rollout * patch :], ((0, 0), (0, rollout * patch)), constant_values=np.nan)
        return reading.points(np.concatenate(parts, 1)[:, :horizon], reading.levels)

    def run_window(self, patches: np.ndarray) -> np.ndarray:
        """Feed a window's patches (B, W / P, 2 P) from the start: the output at the last one, (B, 1, Q P)."""
        with_values = np.flatnonzero(patches.any(axis=(0, 2)))
        first = int(with_values[0]) if len(with_values) else patches.shape[1] - 1
        self._write_padding(first)
        return self._session.prefill(list(patches[:, first:]))

    def run_missing(self) -> np.ndarray:
        """Feed one patch without a value: the output, (B, 1, Q P)."""
        return self._session.step(np.zeros((self._session.batch, 1, self.spec.input_width), np.float32))

    def _write_padding(self, count: int) -> None:
        """Set the states to those after so many patches without a value."""
        if not self._padding:
            self._session.reset()
            self._padding.append(self._read_row())
        if count >= len(self._padding):
            self._write_rows(self._padding[-1])
            while count >= len(self._padding):
                self.run_missing()
                self._padding.append(self._read_row())
        self._write_rows(self._padding[count])

    def _read_row(self) -> States:
        return {name: value[:1].copy() for name, value in self._session.read_states().items()}

    def _write_rows(self, states: States) -> None:
        batch = self._session.batch
        self._session.write_states({name: np.repeat(value, batch, 0) for name, value in states.items()})
