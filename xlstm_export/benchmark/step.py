"""Latency of decode steps against the memory-bandwidth limit, and of a prompt, all measured in the same run.

A decoded token must read every weight once and read and write every state once:
limit = weight bytes / read bandwidth + 2 * state bytes * batch / read-modify-write bandwidth.
On the CPU both bandwidths are measured here, on buffers larger than the caches. A model that fits into the caches
can be faster than this limit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import RenderableType
from rich.table import Table

from ..bundle import Bundle
from ..progress import Stage, no_progress
from ..runtime import RuntimeName, Session, open_session
from .forecasts import ForecastTiming, time_forecasts

_STREAM_BYTES = 256 << 20
_WARM_UP_STEPS = 10


@dataclass(frozen=True)
class StepTiming:
    """Seconds a step at percentiles, and the limit of the machine for the same bytes."""

    runtime: str
    batch: int
    steps: int
    median: float
    p90: float
    p99: float
    weight_bytes: int
    state_bytes: int
    """Of all sequences, one way."""
    read_bandwidth: float
    """Bytes per second of a pure read."""
    update_bandwidth: float
    """Bytes per second, both ways counted, of a read-modify-write."""
    prompt: int
    """Positions of the prompt, a row; 0: none was timed."""
    prompt_seconds: float
    forecasts: ForecastTiming | None = None
    """Of a forecaster."""

    @property
    def limit(self) -> float:
        """Seconds that moving the bytes takes at the measured bandwidths."""
        return self.weight_bytes / self.read_bandwidth + 2 * self.state_bytes / self.update_bandwidth

    @property
    def tokens_per_second(self) -> float:
        return self.batch / self.median

    @property
    def prompt_tokens_per_second(self) -> float | None:
        return self.batch * self.prompt / self.prompt_seconds if self.prompt else None

    def to_json(self) -> str:
        derived = {name: getattr(self, name) for name in ("limit", "tokens_per_second", "prompt_tokens_per_second")}
        if self.forecasts:
            derived["forecasts_per_second"] = self.forecasts.forecasts_per_second
        return json.dumps(asdict(self) | derived, indent=2)


def time_steps(
    bundle: Bundle,
    runtime: RuntimeName = "onnxruntime",
    batch: int = 1,
    steps: int = 200,
    prompt: int = 512,
    custom_ops: Path | None = None,
    stage: Stage = no_progress,
) -> StepTiming:
    """Time `steps` decode steps of random inputs after a warm-up, a prompt, then the memory of the machine.

    The prompt is left out for a bundle of mode `step`, which has no other way than steps.
    """
    manifest = bundle.manifest
    prompt = 0 if manifest.mode == "step" else prompt
    random = np.random.default_rng(0)
    progress = stage("Stepping", steps)

    def draw(count: int, positions: int) -> np.ndarray:
        shape = (count, *manifest.input.sized(batch, positions))
        if manifest.vocab_size is None:
            return random.standard_normal(shape, np.float32)
        return random.integers(0, manifest.vocab_size, shape)

    inputs, seconds = draw(16, 1), []
    with open_session(bundle, runtime, batch, custom_ops) as session:
        for step in range(_WARM_UP_STEPS + steps):
            start = time.perf_counter()
            session.step(inputs[step % 16])
            if step >= _WARM_UP_STEPS:
                seconds.append(time.perf_counter() - start)
                progress(1)
        prompt_seconds = _time_prompt(session, draw(1, prompt)[0]) if prompt else 0.0
        forecasts = time_forecasts(session) if manifest.forecast else None
    median, p90, p99 = np.percentile(seconds, (50, 90, 99))
    read, update = _bandwidths()
    return StepTiming(
        runtime,
        batch,
        steps,
        float(median),
        float(p90),
        float(p99),
        bundle.step_bytes,
        manifest.state_bytes(batch),
        read,
        update,
        prompt,
        prompt_seconds,
        forecasts,
    )


def _time_prompt(session: Session, prompts: np.ndarray) -> float:
    """The median of three, after one to warm up."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        session.prefill(list(prompts))
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def _bandwidths() -> tuple[float, float]:
    stream = torch.ones(_STREAM_BYTES // 4)

    def best(operation: Callable[[], object], count: int) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            operation()
            times.append(time.perf_counter() - start)
        return count / min(times)

    return best(stream.sum, _STREAM_BYTES), best(lambda: stream.mul_(1.0), 2 * _STREAM_BYTES)


def render(timing: StepTiming) -> RenderableType:
    """The timing as a table."""
    table = Table("what", "value", title=f"{timing.steps} steps on {timing.runtime}, batch {timing.batch}")
    table.add_row(
        "step, median / p90 / p99", " / ".join(f"{1e3 * s:.3f} ms" for s in (timing.median, timing.p90, timing.p99))
    )
    table.add_row("tokens per second", f"{timing.tokens_per_second:,.0f}")
    table.add_row(
        "bytes a step", f"{timing.weight_bytes / 1e6:.1f} MB weights + 2 x {timing.state_bytes / 1e6:.2f} MB states"
    )
    table.add_row(
        "memory, read / update", f"{timing.read_bandwidth / 1e9:.1f} GB/s / {timing.update_bandwidth / 1e9:.1f} GB/s"
    )
    table.add_row(
        "memory limit", f"{1e3 * timing.limit:.3f} ms: the step takes {timing.median / timing.limit:.2f} times it"
    )
    if (rate := timing.prompt_tokens_per_second) is not None:
        table.add_row(
            f"prompt of {timing.prompt}",
            f"{rate:,.0f} tokens per second: {rate / timing.tokens_per_second:.1f} times as fast as steps",
        )
    if (forecasts := timing.forecasts) is not None:
        what = f"{forecasts.horizon} points from {forecasts.context:,}"
        one_window = forecasts.batch / forecasts.rollout_seconds
        table.add_row(
            f"forecasts of {what}",
            f"{forecasts.forecasts_per_second:,.1f} per second; {one_window:,.1f} from one window each",
        )
        table.add_row(
            "streamed patch",
            f"{1e3 * forecasts.patch_seconds:.3f} ms: {forecasts.window_seconds / forecasts.patch_seconds:.0f} times "
            "cheaper than such a forecast",
        )
    return table
