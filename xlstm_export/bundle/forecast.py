"""How a forecaster's graph is fed: the object `forecast` of a manifest, as FORMAT.md has it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ErrorKind, UserError
from .strict_json import Fields

STANDARD, ZERO, LEFT, MASKED = "standard", "zero", "left", "masked"


@dataclass(frozen=True)
class ForecastSpec:
    """What lies between a series and the graph. FORMAT.md's section on forecasts says what each entry means."""

    patch: int
    """Points of a patch, P."""
    context: int
    """Points of the window, W: a multiple of P."""
    quantiles: tuple[float, ...]
    """Levels, ascending, Q of them."""
    scaler: str = STANDARD
    missing: str = ZERO
    padding: str = LEFT
    rollout: str = MASKED

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
        scaler=entries.choice("scaler", (STANDARD,)),
        missing=entries.choice("missing", (ZERO,)),
        padding=entries.choice("padding", (LEFT,)),
        rollout=entries.choice("rollout", (MASKED,)),
    )
    if spec.context % spec.patch:
        entries.fail(f"forecast.context is {spec.context}, not a multiple of the patch of {spec.patch}")
    return spec
