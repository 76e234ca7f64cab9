"""How a forecaster's graph is fed: the object `forecast` of a manifest, as FORMAT.md has it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ErrorKind, UserError
from .strict_json import Fields

STANDARD, ZERO, LEFT, MASKED = "standard", "zero", "left", "masked"


@dataclass(frozen=True)
class Scaler:
    """A scaler that is more than `STANDARD`."""

    floor: float
    """The least scale."""
    arcsinh: bool
    """Scaled values go through arcsinh, and outputs through sinh."""
    binary: bool
    """A window of no values but 0 and 1 is fed as it is."""


@dataclass(frozen=True)
class Calibration:
    """How far quantiles lie from the median, against what the model says: a factor that grows with the step."""

    band_scale: float
    """The square of the factor at the first step."""
    band_exponent: float
    """Of the step, plus a half."""


@dataclass(frozen=True)
class Differencing:
    """Which series are fed as the differences of their neighbouring points, and how those are added up again."""

    score: float
    """The least rise of a fitted line over the whole series, in its standard deviations."""
    r_squared: float
    """The least share of the variance that the line explains."""
    band: Calibration


@dataclass(frozen=True)
class ForecastSpec:
    """What lies between a series and the graph. FORMAT.md's section on forecasts says what each entry means."""

    patch: int
    """Points of a patch, P."""
    context: int
    """Points of the window, W: a multiple of P."""
    quantiles: tuple[float, ...]
    """Levels, ascending, Q of them."""
    scaler: str | Scaler = STANDARD
    missing: str = ZERO
    padding: str = LEFT
    rollout: str = MASKED
    horizon: int | None = None
    """The most points of a forecast, all of which come from one window; None: no bound, by any rollout."""
    differencing: Differencing | None = None
    calibration: Calibration | None = None
    """Of series that are not differenced."""

    @property
    def patches(self) -> int:
        """Of the window."""
        return self.context // self.patch

    @property
    def input_width(self) -> int:
        return 2 * self.patch

    @property
    def output_width(self) -> int:
        return self.patch * len(self.quantiles)

    def select(self, levels: Sequence[float]) -> list[int]:
        """Where these levels lie among the quantiles.

        Raises:
            UserError: the model has not been trained for one of them.
        """
        if unknown := [level for level in levels if level not in self.quantiles]:
            known = ", ".join(f"{level:g}" for level in self.quantiles)
            raise UserError(
                ErrorKind.argument,
                f"{unknown[0]:g} is no quantile of this model, which gives {known}. Take one of these.",
            )
        return [self.quantiles.index(level) for level in levels]


def parse_forecast(entries: Fields) -> ForecastSpec:
    """Check one object, by itself."""
    levels = entries.items("quantiles")
    numbers = [level for level in levels if isinstance(level, float)]
    if not numbers or numbers != levels or not all(0 < a < b for a, b in itertools.pairwise([*numbers, 1.0])):
        entries.fail("forecast.quantiles is not a list of numbers between 0 and 1 that rise")
    spec = ForecastSpec(
        patch=entries.count("patch"),
        context=entries.count("context"),
        quantiles=tuple(numbers),
        scaler=_parse_scaler(entries),
        missing=entries.choice("missing", (ZERO,)),
        padding=entries.choice("padding", (LEFT,)),
        rollout=entries.choice("rollout", (MASKED,)),
        horizon=None if entries.is_absent("horizon") else entries.count("horizon"),
        differencing=_parse_differencing(entries),
        calibration=None if entries.is_absent("calibration") else _parse_calibration(entries.below("calibration")),
    )
    if spec.context % spec.patch:
        entries.fail(f"forecast.context is {spec.context}, not a multiple of the patch of {spec.patch}")
    return spec


def _parse_scaler(entries: Fields) -> str | Scaler:
    if entries.raw("scaler") == STANDARD:
        return STANDARD
    scaler = entries.below("scaler")
    return Scaler(scaler.number("floor"), scaler.boolean("arcsinh"), scaler.boolean("binary"))


def _parse_differencing(entries: Fields) -> Differencing | None:
    if entries.is_absent("differencing"):
        return None
    differencing = entries.below("differencing")
    band = _parse_calibration(differencing.below("band"))
    return Differencing(differencing.number("score"), differencing.number("r_squared"), band)


def _parse_calibration(entries: Fields) -> Calibration:
    return Calibration(entries.number("band_scale"), entries.number("band_exponent"))
