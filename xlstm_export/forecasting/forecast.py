"""A forecast as data, as a table, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table


@dataclass(frozen=True)
class Forecast:
    """What comes after each of N series."""

    names: tuple[str, ...]
    series: tuple[np.ndarray, ...]
    """What was forecast from, the newest value last, NaN where missing."""
    quantiles: tuple[float, ...]
    """The levels, Q of them."""
    values: np.ndarray
    """(N, H, Q) float32, in the units of the series."""

    @property
    def median(self) -> np.ndarray | None:
        """(N, H), where the quantile 0.5 is there."""
        return self.values[:, :, self.quantiles.index(0.5)] if 0.5 in self.quantiles else None

    def to_data(self) -> dict[str, Any]:
        """`{"quantiles": [...], "series": {name: [[a value for each quantile] for each step]}}`."""
        series = {name: _plain(values) for name, values in zip(self.names, self.values, strict=True)}
        return {"quantiles": list(self.quantiles), "series": series}

    def to_json(self) -> str:
        """`to_data`, as text."""
        return json.dumps(self.to_data())

    def to_csv(self) -> str:
        """A line for each series and step, with a column for each quantile."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["series", "step", *map(_title, self.quantiles)])
        for name, values in zip(self.names, self.values, strict=True):
            writer.writerows([name, step, *row] for step, row in enumerate(_plain(values), 1))
        return text.getvalue()


def _title(level: float) -> str:
    return f"q{level:g}"


def _plain(values: np.ndarray) -> list[list[float]]:
    """As numbers with the digits that a float32 has."""
    return [[float(str(value)) for value in row] for row in values]


def render(forecast: Forecast) -> RenderableType:
    """A table for each series."""
    tables = []
    for name, values in zip(forecast.names, forecast.values, strict=True):
        table = Table(title=name, title_justify="left", box=None, pad_edge=False, header_style="dim")
        for title in ("step", *map(_title, forecast.quantiles)):
            table.add_column(title, justify="right")
        for step, row in enumerate(values, 1):
            table.add_row(str(step), *(f"{value:.6g}" for value in row))
        tables.append(table)
    return Group(*tables)
