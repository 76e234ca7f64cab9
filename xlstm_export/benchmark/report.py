"""What was measured as data, as a table, and as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..bundle.manifest import NETWORK
from .bench import BatchResult, Benchmark
from .rounds import NOISY, TAKEN, Limit, Timing

_PERCENTILES = {"p50": 50, "p90": 90, "p99": 99}


def to_json(result: Benchmark) -> str:
    """Everything in seconds, bytes and bytes per second."""
    batches = [_batch_data(result, batch) for batch in result.batches]
    names = "bundle family dtype runtime activations mode positions threads stream missing".split()
    data = {name: getattr(result, name) for name in names} | {"unit": _unit(result)[1], "batches": batches}
    return json.dumps(data | {"conclusive": all(b.limit.is_conclusive for b in result.batches)}, indent=2)


def _batch_data(result: Benchmark, batch: BatchResult) -> dict[str, Any]:
    limit, forecasts = batch.limit, batch.forecasts
    return {
        "batch": batch.batch,
        "weight_bytes": limit.weight_bytes,
        "state_bytes": limit.state_bytes,
        "bytes_per_token": bytes_per_token(batch),
        "limit": {
            "seconds": limit.seconds,
            "spread": limit.spread,
            "taken": limit.taken_share,
            "conclusive": limit.is_conclusive,
            "read_bandwidth": limit.read_bandwidth,
            "update_bandwidth": limit.update_bandwidth if limit.state_bytes else None,
        },
        "timings": [
            {
                "name": timing.name,
                "steps": timing.steps,
                **{name: timing.percentile(percent) for name, percent in _PERCENTILES.items()},
                "per_second": batch.batch / timing.median,
                "times_limit": times_limit(result, batch, timing),
                "times_bundle": timing.ratio(batch.bundle.medians),
                "peak_bytes": timing.peak_bytes,
                "base_bytes": timing.base_bytes,
            }
            for timing in batch.timings
        ],
        "prompt": batch.prompt,
        "prompt_per_second": batch.batch * batch.prompt / batch.prompt_seconds if batch.prompt else None,
        "forecasts": None
        if forecasts is None
        else vars(forecasts) | {"forecasts_per_second": forecasts.forecasts_per_second},
    }


def times_limit(result: Benchmark, batch: BatchResult, timing: Timing) -> float | None:
    """How many times the limit a step takes; None where there is none: no bytes, or a GPU's."""
    has_bytes = batch.limit.weight_bytes or batch.limit.state_bytes
    return timing.ratio(batch.limit.rounds.tolist()) if has_bytes and result.on_cpu else None


def bytes_per_token(batch: BatchResult) -> float:
    """That a step moves for one row: the weights' are shared."""
    return (batch.limit.weight_bytes + 2 * batch.limit.state_bytes) / batch.batch


def _unit(result: Benchmark) -> tuple[str, str]:
    """What is timed, and what is counted by the second."""
    if result.mode == "window":
        return "window", "windows"
    return "step", "positions" if result.family == NETWORK else "tokens"


def render(result: Benchmark) -> RenderableType:
    """A table for a terminal, in the words of what was timed: tokens, positions or windows."""
    step, unit = _unit(result)
    sized = f" of {result.positions} positions" if result.mode == "window" and result.positions else ""
    threads = "" if result.threads is None else f", {result.threads} threads"
    activations = f", {result.activations} activations" if result.activations else ""
    title = f"{result.bundle}: {step}s{sized} on {result.runtime}{activations}{threads}"
    table = Table(title=title, title_justify="left", padding=0)  # so that 80 columns are enough
    for name in ("batch", "", "ms p50", "p90", "p99", f"{unit}/s", "× limit", "× bundle", "peak MB"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for batch in result.batches:
        for timing in batch.timings:
            share = times_limit(result, batch, timing)
            table.add_row(
                str(batch.batch),
                timing.name,
                *(milliseconds(timing.percentile(p)) for p in _PERCENTILES.values()),
                f"{batch.batch / timing.median:,.0f}",
                "-" if share is None else f"{share:.2f}",
                f"{timing.ratio(batch.bundle.medians):.2f}",
                f"{timing.peak_bytes / 1e6:,.0f}",
            )
        table.add_row(str(batch.batch), "limit", milliseconds(batch.limit.seconds), end_section=True)
    lines = [line for batch in result.batches for line in _lines(batch, step, unit)]
    lines += [Text(f"Not timed: {reason}") for reason in result.missing.values()]
    if result.stream == "NumPy":
        lines.append(Text("The limit was measured with NumPy, which reaches less than the loops of `plugins build`."))
    if not result.on_cpu:
        lines.append(Text("The limit is that of the processor's memory, and says nothing of a GPU."))
    return Group(table, *lines)


def milliseconds(seconds: float) -> str:
    """Four digits: below a microsecond nothing is known."""
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}" if value >= 1 else f"{value:.3f}"


def _lines(batch: BatchResult, step: str, unit: str) -> Iterator[Text]:
    limit = batch.limit
    states = f" + 2 x {limit.state_bytes / 1e6:.2f} MB states" if limit.state_bytes else ""
    read = f"reads at {limit.read_bandwidth / 1e9:.1f} GB/s" if limit.weight_bytes else ""
    updates = f"updates at {limit.update_bandwidth / 1e9:.1f} GB/s" if limit.state_bytes else ""
    moved = f"{limit.weight_bytes / 1e6:.1f} MB weights{states} a {step}, {bytes_per_token(batch) / 1e6:.2f} MB a row"
    yield Text(f"Batch {batch.batch}: {moved}; the memory {' and '.join(filter(None, (read, updates)))}.")
    yield noise_line(limit)
    if batch.prompt:
        rate = batch.batch * batch.prompt / batch.prompt_seconds
        what, faster = "pass" if unit == "positions" else "prompt", rate / (batch.batch / batch.bundle.median)
        yield Text(f"  {what} of {batch.prompt}: {rate:,.0f} {unit} a second, {faster:.1f} times as fast as steps.")
    if (forecasts := batch.forecasts) is not None:
        rates = f"{forecasts.forecasts_per_second:,.1f} a second"
        if forecasts.rollout_seconds is not None:
            rates += f"; {forecasts.batch / forecasts.rollout_seconds:,.1f} from one window each"
        yield Text(f"  forecasts of {forecasts.horizon} points from {forecasts.context:,}: {rates}.")
        cheaper = forecasts.window_seconds / forecasts.patch_seconds
        yield Text(f"  streamed patch: {1e3 * forecasts.patch_seconds:.3f} ms, {cheaper:.0f} times cheaper.")


def noise_line(limit: Limit) -> Text:
    """Whether the machine was quiet enough to conclude anything."""
    spread = f"the limit varied by {limit.spread:.0%} from round to round"
    taken = f"other programs had {limit.taken_share:.0%} of the processors' time"
    if limit.is_conclusive:
        return Text(f"  Quiet enough: {spread}, {taken}. Smaller differences mean nothing.", style="dim")
    least = f"{NOISY:.0%} and {TAKEN:.0%} are the most"
    return Text(f"  TOO NOISY TO CONCLUDE: {spread}, {taken} ({least}). Run it again beside less.", style="bold red")


def save_roofline(result: Benchmark, path: Path) -> None:
    """A PNG: tokens a second against the bytes that each moves, under the roof of the memory."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    moved = np.array([bytes_per_token(batch) for batch in result.batches])
    roof = np.array([batch.batch / batch.limit.seconds for batch in result.batches])
    wide = np.geomspace(moved.min() / 2, moved.max() * 2, 64)
    order = np.argsort(moved)
    # Between the batches the roof bends, as weights are read and states are updated at different speeds.
    bandwidth = np.interp(np.log(wide), np.log(moved[order]), (moved * roof)[order])
    axes.plot(wide / 1e6, bandwidth / wide, color="tab:red", linewidth=1.6, label="what the memory allows")
    for index, name in enumerate(dict.fromkeys(t.name for b in result.batches for t in b.timings)):
        points = [
            (bytes_per_token(b) / 1e6, b.batch / t.median, b.batch)
            for b in result.batches
            for t in b.timings
            if t.name == name
        ]
        x, y, batches = zip(*points, strict=True)
        axes.plot(x, y, "o-", color=f"C{index}", markersize=6, linewidth=0.8, label=name)
        for at, rate, batch in points:
            axes.annotate(f"batch {batch}", (at, rate), (5, -11), textcoords="offset points", fontsize="x-small")
    unit = _unit(result)[1]
    axes.set(xscale="log", yscale="log", xlabel=f"MB moved for one of the {unit}", ylabel=f"{unit} a second")
    quiet = all(batch.limit.is_conclusive for batch in result.batches)
    noise = "" if quiet else ": the machine was too noisy to conclude"
    axes.set_title(f"{result.bundle} on {result.runtime}{noise}", fontsize="medium")
    axes.grid(alpha=0.25, which="both")
    axes.legend(loc="best", fontsize="small")
    figure.savefig(path, dpi=140, format="png")
