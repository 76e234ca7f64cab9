"""The drift plot: how the errors of the long run grow, or do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..bundle.manifest import NETWORK
from .tolerance import Series
from .verdict import block_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .report import ValidationReport


def save_drift_plot(report: ValidationReport, path: Path) -> None:
    """A PNG of the long run: above the error of the outputs with its limits, below those of the states by block."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    run = report.runs[-1]
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    along = run.states and report.family != NETWORK  # those of a network are compared at the end alone
    panels = figure.subplots(2 if along else 1, 1, sharex=True, squeeze=False)[:, 0]
    _draw_outputs(panels[0], report)
    panels[0].set_title(f"{report.bundle}: {report.dtype} on {report.runtime}, {run.rows} rows, {run.what}")
    if along:
        _draw_states(panels[1], report)
    panels[-1].set_xlabel("step")
    for axes in panels:
        axes.set_yscale("log")
        axes.grid(alpha=0.25)
        axes.set_xlim(1, max(2, run.steps))
        low, high = axes.get_ylim()
        axes.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))
    panels[0].legend(loc="best", fontsize="small", ncols=2)
    figure.savefig(path, dpi=140, format="png")


def _draw_outputs(axes: Axes, report: ValidationReport) -> None:
    run, several = report.runs[-1], len(report.runs[-1].outputs) > 1
    for index, (name, series) in enumerate(run.outputs.items()):
        steps = np.asarray(series.steps) + 1
        _draw(axes, steps, series.error, f"C{index}", f"bundle{f', {name}' if several else ''}")
        label = f"the reference in float32, weights moved by one {report.dtype} roundoff"
        _draw(axes, steps, series.sensitivity, "tab:gray", "" if index else label)
    limits = [v for v in report.verdicts if v.run == run.name and v.is_output]
    for kind, style, what in (("typical", "--", "median"), ("worst", ":", "worst step")):
        if own := [v for v in limits if v.limit.kind == kind]:
            value = max(own, key=lambda v: v.share).limit.value
            axes.axhline(value, color="tab:red", linestyle=style, linewidth=1.2, label=f"limit of the {what}")
    axes.set_ylabel("logit error / logit spread" if run.kl else "output error / output spread")


def _draw_states(axes: Axes, report: ValidationReport) -> None:
    from matplotlib import colormaps

    blocks = _by_block(report.runs[-1].states)
    colors = colormaps["viridis"](np.linspace(0, 0.9, len(blocks)))
    for color, (block, (steps, worst)) in zip(colors, blocks.items(), strict=True):
        _draw(axes, steps, worst, color, f"block {block}")
    floor = report.tolerance.floor(1)
    axes.axhline(floor, color="tab:red", linestyle="--", linewidth=1.2, label="least limit of the median")
    axes.set_ylabel("state error / state scale, worst of block")
    if len(blocks) <= 12:
        axes.legend(loc="best", fontsize="small", ncols=4)


def _draw(axes: Axes, steps: np.ndarray, values: Sequence[float] | np.ndarray, color: object, label: str) -> None:
    """A series that jumps from step to step: faint as it is, strong as the median of what lies around."""
    axes.plot(steps, _shown(values), color=color, alpha=0.2, linewidth=0.6)
    half = max(1, len(steps) // 60)
    smooth = [np.median(values[max(0, at - half) : at + half + 1]) for at in range(len(steps))]
    axes.plot(steps, _shown(smooth), color=color, linewidth=1.4, label=label)


def _shown(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """For a logarithmic axis: nothing where there is no error, or an infinite one."""
    array = np.asarray(values, float)
    return np.where(np.isfinite(array) & (array > 0), array, np.nan)


def _by_block(states: Mapping[str, Series]) -> dict[int | str, tuple[np.ndarray, np.ndarray]]:
    """Steps, and the worst error of a block's states at each."""
    blocks: dict[int | str, list[Series]] = {}
    for name, series in states.items():
        blocks.setdefault(block_of(name), []).append(series)
    return {
        block: (np.asarray(own[0].steps) + 1, np.max([series.error for series in own], 0))
        for block, own in blocks.items()
    }
