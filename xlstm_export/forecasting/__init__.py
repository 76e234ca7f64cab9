"""Forecasts of series from a bundle of a forecaster: exact ones of a window, and ones that go along with a stream."""

from .forecaster import Forecaster
from .stream import ForecastStream

__all__ = ["ForecastStream", "Forecaster"]
