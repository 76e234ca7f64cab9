"""Latency of steps against the memory-bandwidth limit, of a prompt or longer pass, and of windows, in one run.

A step must read every weight once and read and write every state once:
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

from ..bundle import Bundle, Manifest
from ..bundle.engine_record import ACTIVATIONS, Activations
from ..progress import Stage, no_progress
from ..runtime import RuntimeName, Session, open_session
from .forecasts import ForecastTiming, time_forecasts

_STREAM_BYTES = 256 << 20
_WARM_UP_STEPS = 10
_DRAWS = 16
"""Different inputs, which are fed in turn."""


@dataclass(frozen=True)
class StepTiming:
    """Seconds a step at percentiles, and the limit of the machine for the same bytes.

    A step is one position of every row; of a bundle of mode `window` it is one window of every row.
    """

    runtime: str
    mode: str
    family: str
    batch: int
    positions: int
    """Of a timed pass: 1, or those of a window; 0 where a window's sizes are fixed."""
    steps: int
    median: float
    p90: float
    p99: float
    p999: float
    """At 99.9 percent: of fewer than a thousand steps, nearly the slowest."""
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
    def tokens_per_second(self) -> float | None:
        """Positions per second, in single steps; None for windows."""
        return None if self.mode == "window" else self.batch / self.median

    @property
    def windows_per_second(self) -> float | None:
        return self.batch / self.median if self.mode == "window" else None

    @property
    def prompt_tokens_per_second(self) -> float | None:
        return self.batch * self.prompt / self.prompt_seconds if self.prompt else None

    def to_json(self) -> str:
        names = ["limit", "tokens_per_second", "windows_per_second", "prompt_tokens_per_second"]
        derived = {name: getattr(self, name) for name in names}
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
    activations: Activations = ACTIVATIONS,
) -> StepTiming:
    """Time `steps` steps of random inputs after a warm-up, a prompt, then the memory of the machine.

    Args:
        bundle: a language model, or a network of any mode.
        runtime, batch, custom_ops, activations: what runs it, on how many sequences.
        steps: the number of steps, or of windows.
        prompt: positions of a prompt (not in mode `step`, which has no other way than steps); of one pass of a network
            that streams; of each window, where that may have any length.
        stage: told of the progress.
    """
    manifest = bundle.manifest
    window = manifest.mode == "window"
    positions = 1
    if window:
        positions = max(prompt, 1) if any(t.time_axis is not None for t in manifest.inputs) else 0
    random = np.random.default_rng(0)
    progress = stage("Running windows" if window else "Stepping", steps)
    inputs, seconds = [_draw(manifest, batch, max(positions, 1), random) for _ in range(_DRAWS)], []
    with open_session(bundle, runtime, batch, custom_ops, activations=activations) as session:
        for step in range(_WARM_UP_STEPS + steps):
            start = time.perf_counter()
            session.run(inputs[step % _DRAWS])
            if step >= _WARM_UP_STEPS:
                seconds.append(time.perf_counter() - start)
                progress(1)
        prompt = 0 if manifest.mode in ("step", "window") else _prompt(session, prompt)
        prompt_seconds = _time_prompt(session, _draw(manifest, batch, prompt, random)) if prompt else 0.0
        forecasts = time_forecasts(session) if manifest.forecast else None
    median, p90, p99, p999 = (float(value) for value in np.percentile(seconds, (50, 90, 99, 99.9)))
    read, update = _bandwidths()
    return StepTiming(
        runtime,
        manifest.mode,
        manifest.family,
        batch,
        positions,
        steps,
        median,
        p90,
        p99,
        p999,
        bundle.step_bytes,
        manifest.state_bytes(batch),
        read,
        update,
        prompt,
        prompt_seconds,
        forecasts,
    )


def _draw(manifest: Manifest, batch: int, positions: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Random inputs: normal values, tokens of the vocabulary, or of a network's integers 0 and 1, which any takes."""
    inputs = {}
    for tensor in manifest.inputs:
        shape = tensor.sized(batch, positions)
        if tensor.dtype == "float32":
            inputs[tensor.name] = random.standard_normal(shape, np.float32)
        else:
            inputs[tensor.name] = random.integers(0, manifest.vocab_size or 2, shape).astype(tensor.dtype)
    return inputs


def _prompt(session: Session, wanted: int) -> int:
    """Positions of a prompt: as many as are wanted, or of a network as one pass takes."""
    if session.manifest.is_single:
        return wanted
    return min(wanted, session.max_chunk or wanted)


def _time_prompt(session: Session, inputs: dict[str, np.ndarray]) -> float:
    """The median of three, after one to warm up."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        if session.manifest.is_single:
            (prompts,) = inputs.values()
            session.prefill(list(prompts))
        else:
            session.run(inputs)
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
