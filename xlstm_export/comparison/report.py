"""A comparison as data, as a table, and as a picture."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..benchmark.report import milliseconds, noise_line
from .compare import Comparison
from .quality import Quality


def to_json(result: Comparison) -> str:
    """Everything in seconds and bytes."""
    names = "reference rows steps text text_bytes timed_batch runtime activations notes".split()
    limit = {"seconds": result.limit.seconds, "spread": result.limit.spread, "conclusive": result.limit.is_conclusive}
    variants = [
        {name: getattr(v, name) for name in "name weights disk_bytes bits_per_weight step_bytes".split()}
        | asdict(v.quality)
        | {
            "seconds": v.timing.median,
            "tokens_per_second": result.timed_batch / v.timing.median,
            "times_as_fast": result.speed(v),
            "times_limit": result.times_limit(v),
            "peak_bytes": v.timing.peak_bytes,
        }
        for v in result.variants
    ]
    return json.dumps(
        {name: getattr(result, name) for name in names} | {"limit": limit, "variants": variants}, indent=2
    )


def render(result: Comparison) -> RenderableType:
    """Two tables for a terminal: size and quality, and speed."""
    reference = result.variants[result.reference].name
    lines = [
        Text(
            f"bits: of a weight, over all; change (± its standard error), KL (nats a token), top-1 and speed: against "
            f"{reference}; drift: KL of the last quarter over the first; limit: moving its own bytes.",
            style="dim",
        ),
        noise_line(result.limit),
    ]
    if any(variant.is_quantised for variant in result.variants):
        lines.append(Text(f"Quantised weights were multiplied with {result.activations} activations."))
    return Group(_quality_table(result), _speed_table(result), *lines, *(Text(f"Note: {n}") for n in result.notes))


def _quality_table(result: Comparison) -> Table:
    read = f"{result.text}, {result.text_bytes:,} bytes" if result.text else "random tokens"
    title = f"{result.rows} rows x {result.steps} steps of {read}"
    table = _table(title, "weights", "MB", "bits", "bits/byte", "change", "KL", "top-1", "drift")
    first = result.variants[result.reference].quality
    for variant in result.variants:
        quality = variant.quality
        table.add_row(
            variant.name,
            variant.weights,
            f"{variant.disk_bytes / 1e6:,.1f}",
            _shown(variant.bits_per_weight, ".2f"),
            _shown(quality.bits_per_byte, ".5f"),
            _change(quality, first),
            _shown(quality.kl, ".1e"),
            _shown(quality.top_one, ".2%"),
            _shown(quality.drift, ".2f"),
        )
    return table


def _speed_table(result: Comparison) -> Table:
    title = f"Steps of batch {result.timed_batch} on {result.runtime}, in turns"
    table = _table(title, "ms p50", "p90", "p99", "tokens/s", "speed", "× limit", "peak MB")
    for variant in result.variants:
        timing = variant.timing
        table.add_row(
            variant.name,
            *(milliseconds(timing.percentile(percent)) for percent in (50, 90, 99)),
            f"{result.timed_batch / timing.median:,.0f}",
            f"{result.speed(variant):.2f}",
            f"{result.times_limit(variant):.2f}",
            f"{timing.peak_bytes / 1e6:,.0f}",
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", padding=0)  # so that 80 columns are enough
    table.add_column("bundle", overflow="fold")
    for column in columns:
        table.add_column(column, justify="left" if column == "weights" else "right", no_wrap=True)
    return table


def _change(quality: Quality, first: Quality) -> str:
    """Of the bits per byte, relative to the reference's."""
    if quality.bits_per_byte is None or first.bits_per_byte is None or quality is first:
        return "-"
    error = (quality.bits_error or 0) / first.bits_per_byte
    return f"{quality.bits_per_byte / first.bits_per_byte - 1:+.3%} ± {100 * error:.3f}"


def _shown(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)


def save_plot(result: Comparison, path: Path) -> None:
    """A PNG: above what the bits cost, below what they gain, both against the size on disk."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    sizes = np.array([v.disk_bytes / 1e6 for v in result.variants])
    above.set_title(f"{len(sizes)} variants of one model on {result.runtime}", fontsize="medium")
    if result.text:
        costs = [v.quality.bits_per_byte for v in result.variants]
        above.set_ylabel(f"bits per byte of {result.text}")
    else:
        costs = [v.quality.error if v.quality.kl is None else v.quality.kl for v in result.variants]
        above.set_ylabel("error / spread" if result.variants[0].quality.kl is None else "KL, nats a token")
    rates = [result.timed_batch / v.timing.median for v in result.variants]
    noise = "" if result.limit.is_conclusive else "; too noisy to conclude"
    below.set(xlabel="MB on disk", ylabel=f"tokens a second, batch {result.timed_batch}{noise}")
    for axes, values in ((above, costs), (below, rates)):
        for index, (variant, value) in enumerate(zip(result.variants, values, strict=True)):
            label = f"{Path(variant.name).name}: {variant.weights}"
            axes.plot(sizes[index], value, "o", color=f"C{index}", markersize=9, label=label)
        axes.grid(alpha=0.25)
        axes.margins(0.1)
    above.legend(loc="best", fontsize="small")
    below.set_ylim(bottom=0)
    figure.savefig(path, dpi=140, format="png")
