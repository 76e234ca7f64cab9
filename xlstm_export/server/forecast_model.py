"""Forecasts of one replica: requests take turns, and the series of one are side by side."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np

from ..errors import UserError
from ..forecasting import Forecaster
from ..forecasting.forecast import Forecast
from ..runtime import Session
from .openai import RequestError, Take, is_int, is_number, parse_json, refusal


class ForecastModel:
    """Answers forecasts, in one event loop. Close it after use.

    Args:
        name: what requests call the model.
        session: of a forecaster's bundle.
        queue: how many requests may wait while one runs.
    """

    def __init__(self, name: str, session: Session, queue: int):
        self.name = name
        self._session, self._forecaster = session, Forecaster(session)
        self._most, self._here, self._turn = 1 + queue, 0, asyncio.Lock()

    def close(self) -> None:
        """Free everything."""
        self._session.close()

    async def forecast(self, body: bytes) -> dict[str, Any]:
        """What is answered to `{"model": ..., "series": [[1.5, null, ...], ...], "horizon": 32}`.

        `quantiles` may name some of the model's levels. Series are by index, or by name in an object.

        Raises:
            RequestError: what it is answered with instead.
        """
        take = Take(parse_json(body))
        model = take("model", ..., lambda v: isinstance(v, str), "the name of a model")
        given = take(
            "series", ..., lambda v: isinstance(v, dict | list) and len(v) > 0, "lists of numbers, newest last"
        )
        horizon = take("horizon", ..., is_int, "a number from 1")
        levels = take("quantiles", None, lambda v: isinstance(v, list) and all(map(is_number, v)), "a list of numbers")
        take.nothing_more()
        if model != self.name:
            raise RequestError(404, f"The model {model!r} does not exist.", "model", "model_not_found")
        named = given if isinstance(given, dict) else {str(index): row for index, row in enumerate(given)}
        series = {name: _series(row) for name, row in named.items()}
        if self._here == self._most:
            message = f"One forecast runs, and {self._most - 1} wait. Try again later."
            raise RequestError(429, message, code="rate_limit_exceeded")
        self._here += 1
        try:
            async with self._turn:
                forecast = await asyncio.to_thread(self._run, series, horizon, levels)
        except UserError as error:
            raise refusal(error) from None
        finally:
            self._here -= 1
        return {"object": "forecast", "model": self.name, **forecast.to_data()}

    def _run(self, series: dict[str, np.ndarray], horizon: int, levels: list[float] | None) -> Forecast:
        quantiles = self._forecaster.quantiles if levels is None else tuple(levels)
        chosen = self._forecaster.spec.select(quantiles)
        values = self._forecaster.forecast([*series.values()], horizon)
        return Forecast(tuple(series), tuple(series.values()), quantiles, values[:, :, chosen])


def _series(row: object) -> np.ndarray:
    if not isinstance(row, list) or not row or not all(value is None or is_number(value) for value in row):
        raise RequestError(400, "series are lists of numbers, with null where a value is missing.", "series")
    return np.array([math.nan if value is None else value for value in row], np.float32)
