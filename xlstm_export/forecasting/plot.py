"""A picture of a forecast: what was, the median of what comes, and how wide it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .forecast import Forecast

_SHOWN = 5  # times the horizon, of the history


def save_plot(forecast: Forecast, path: Path) -> None:
    """A PNG with a panel for each series: the end of its history, the median, and a band for each pair of quantiles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(forecast.names)
    figure = Figure(figsize=(9, 1 + 3 * count), layout="constrained")
    FigureCanvasAgg(figure)
    horizon, levels = forecast.values.shape[1], forecast.quantiles
    steps = np.arange(1, horizon + 1)
    for axes, name, series, values in zip(
        figure.subplots(count, squeeze=False)[:, 0], forecast.names, forecast.series, forecast.values, strict=True
    ):
        newest = series[-max(_SHOWN * horizon, 32) :]
        axes.plot(np.arange(1 - len(newest), 1), newest, color="tab:gray", linewidth=1.2, label="history")
        pairs = [(low, len(levels) - 1 - low) for low in range(len(levels) // 2)]
        for low, high in pairs:
            label = f"{levels[low]:g} to {levels[high]:g}" if low == 0 else None
            style = {"color": "tab:blue", "alpha": 0.5 / len(pairs), "linewidth": 0}
            axes.fill_between(steps, values[:, low], values[:, high], label=label, **style)
        if len(levels) % 2:
            middle = len(levels) // 2
            label = "median" if levels[middle] == 0.5 else f"quantile {levels[middle]:g}"
            axes.plot(steps, values[:, middle], color="tab:blue", linewidth=1.6, label=label)
        axes.axvline(0.5, color="tab:gray", linewidth=0.6, linestyle=":")
        axes.set_title(name, loc="left", fontsize="medium")
        axes.grid(alpha=0.25)
        axes.legend(loc="best", fontsize="small")
    figure.savefig(path, dpi=140, format="png")
