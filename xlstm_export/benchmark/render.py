"""A timing as a table."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table

from ..bundle.manifest import NETWORK
from .step import StepTiming


def render(timing: StepTiming) -> RenderableType:
    """A table for a terminal, in the words of what was timed: tokens, positions or windows."""
    step, unit = ("window", "windows") if timing.mode == "window" else ("step", "tokens")
    if timing.family == NETWORK and unit == "tokens":
        unit = "positions"
    sized = f" of {timing.positions} positions" if timing.mode == "window" and timing.positions else ""
    title = f"{timing.steps} {step}s{sized} on {timing.runtime}, batch {timing.batch}"
    table = Table("what", "value", title=title)
    seconds = (timing.median, timing.p90, timing.p99, timing.p999)
    table.add_row(f"{step}, median / p90 / p99 / p99.9", " / ".join(f"{1e3 * s:.3f} ms" for s in seconds))
    rate = timing.windows_per_second or timing.tokens_per_second or 0.0
    table.add_row(f"{unit} per second", f"{rate:,.0f}")
    states = f" + 2 x {timing.state_bytes / 1e6:.2f} MB states" if timing.mode != "window" else ""
    table.add_row(f"bytes a {step}", f"{timing.weight_bytes / 1e6:.1f} MB weights{states}")
    table.add_row(
        "memory, read / update", f"{timing.read_bandwidth / 1e9:.1f} GB/s / {timing.update_bandwidth / 1e9:.1f} GB/s"
    )
    if timing.limit > 0:  # a network may have no weight at all
        share = timing.median / timing.limit
        table.add_row("memory limit", f"{1e3 * timing.limit:.3f} ms: the {step} takes {share:.2f} times it")
    if (prompt_rate := timing.prompt_tokens_per_second) is not None:
        what = "pass" if unit == "positions" else "prompt"
        table.add_row(
            f"{what} of {timing.prompt}",
            f"{prompt_rate:,.0f} {unit} per second: {prompt_rate / rate:.1f} times as fast as steps",
        )
    if (forecasts := timing.forecasts) is not None:
        what = f"{forecasts.horizon} points from {forecasts.context:,}"
        rates = f"{forecasts.forecasts_per_second:,.1f} per second"
        if forecasts.rollout_seconds is not None:
            rates += f"; {forecasts.batch / forecasts.rollout_seconds:,.1f} from one window each"
        table.add_row(f"forecasts of {what}", rates)
        table.add_row(
            "streamed patch",
            f"{1e3 * forecasts.patch_seconds:.3f} ms: {forecasts.window_seconds / forecasts.patch_seconds:.0f} times "
            "cheaper than such a forecast",
        )
    return table
