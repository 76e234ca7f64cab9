"""Upstream and the bundle side by side, token by token: what is run, and the data that comes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..bundle.manifest import LOGITS
from ..runtime.session import Session
from . import metrics
from .tolerance import Series
from .upstream import UpstreamSession

_STATE_BYTES = 1 << 30  # compared in one run: some seconds
_LARGEST_STRIDE = 32
_QUARTERS = 4


@dataclass(frozen=True)
class Disagreement:
    """A token at which the bundle's first choice is not the reference's."""

    step: int
    row: int
    gap: float
    """By how much the reference prefers its own choice, relative to its spread."""


@dataclass(frozen=True)
class TextScore:
    """How well both predict a text."""

    tokens: int
    bytes: int
    """Of the text that the predicted tokens stand for."""
    reference_nats: float
    """-log p of the whole text, in nats."""
    bundle_nats: float

    def bits_per_byte(self, nats: float) -> float:
        return nats / math.log(2) / self.bytes

    def perplexity(self, nats: float) -> float:
        """Per token."""
        return math.exp(nats / self.tokens)


@dataclass(frozen=True)
class ForecastScore:
    """How well both foretell, at some points of the horizon; all in units of the scale of a series' window."""

    horizons: tuple[int, ...]
    """The last points of the patches; each entry below is of the points since the one before."""
    largest_error: tuple[float, ...]
    """Between bundle and upstream."""
    shipped_error: tuple[float, ...]
    """Between upstream as it is shipped and upstream as the reference runs it."""
    bundle_loss: tuple[float, ...]
    """Mean quantile loss, over series, points and quantiles."""
    reference_loss: tuple[float, ...]


@dataclass(frozen=True)
class Scenario:
    """What one run gave: data only, judged by `verdict.judge`."""

    name: str
    what: str
    """One line for people."""
    locked: bool
    """Each step starts from the reference's states, so that nothing accumulates."""
    rows: int
    steps: int
    outputs: dict[str, Series]
    """By output: `metrics.relative_error` of logits, or of vectors where the model has no head; of a network's outputs
    the error relative to their spread over the run."""
    kl: list[float]
    """Per step, mean over the rows, nats; empty where the model has no head."""
    disagreements: list[Disagreement]
    states: dict[str, Series]
    """`metrics.state_error` by state, every `stride`-th step and at the last; of a network at the last alone. Empty
    where only outputs are compared."""
    text: TextScore | None = None
    forecast: ForecastScore | None = None
    kl_sensitivity: Sequence[float] = ()
    """As `kl`, of the reference with its weights moved."""

    @property
    def drift(self) -> float | None:
        """By how much the last quarter of the run diverges more than the first: mean KL over mean KL."""
        if len(self.kl) < _QUARTERS:
            return None
        quarter = len(self.kl) // _QUARTERS
        first, last = sum(self.kl[:quarter]), sum(self.kl[-quarter:])
        return last / first if first > 0 else None

    @property
    def top_one_agreement(self) -> float:
        """Share of tokens at which both put the same token first."""
        positions = max(len(series.steps) for series in self.outputs.values())
        return 1 - len(self.disagreements) / (self.rows * positions)


class Stepper(Protocol):
    """What runs are made of: `batch` sequences, advanced step by step. Methods as in `runtime.Session`."""

    batch: int

    def step(self, inputs: np.ndarray) -> np.ndarray: ...

    def reset(self, row: int | None = None) -> None: ...

    def read_states(self) -> dict[str, np.ndarray]: ...

    def write_states(self, states: Mapping[str, np.ndarray]) -> None: ...


@dataclass(frozen=True)
class Machines:
    """What runs side by side."""

    reference: UpstreamSession
    nudged: UpstreamSession
    """Upstream with its weights moved by one unit roundoff: see `tolerance`."""
    bundle: Session

    @property
    def output_name(self) -> str:
        """Of the bundle's one output: `logits`, or what vectors are called."""
        return self.bundle.manifest.output.name

    def write_states(self, states: Mapping[str, np.ndarray]) -> None:
        for stepper in self._all:
            stepper.write_states(states)

    def reset(self, row: int | None = None) -> None:
        for stepper in self._all:
            stepper.reset(row)

    @property
    def _all(self) -> tuple[Stepper, Stepper, Stepper]:
        return self.reference, self.nudged, self.bundle


def run_scenario(
    machines: Machines,
    inputs: np.ndarray,
    *,
    name: str,
    what: str,
    start: Mapping[str, np.ndarray] | None = None,
    locked: bool = False,
    resets: Mapping[int, int] | None = None,
    targets: np.ndarray | None = None,
    text_bytes: int = 0,
    tick: Callable[[int], None] = lambda _: None,
) -> Scenario:
    """Feed the same inputs to all machines and record how far they part.

    Args:
        inputs: tokens (T, B) int64, or vectors (T, B, D) float32 for a block stack.
        start: the states to start from, by name; None: zeros.
        locked: write the reference's states into the others before every step.
        resets: step → the row that is reset before it.
        targets: (T, B), the tokens that follow, when they are text.
        text_bytes: how many bytes the targets stand for.
        tick: called with 1 after each step.
    """
    steps, rows = inputs.shape[:2]
    machines.reset() if start is None else machines.write_states(start)
    recorder = Recorder(_stride(machines.reference.read_states(), steps), machines.output_name)
    nats = np.zeros(2)
    for step in range(steps):
        if resets and step in resets:
            machines.reset(resets[step])
        if locked:
            machines.write_states(machines.reference.read_states())
        fed = inputs[step][:, None]
        reference, nudged, actual = (
            stepper.step(fed)[:, 0] for stepper in (machines.reference, machines.nudged, machines.bundle)
        )
        recorder.outputs(step, reference, nudged, actual)
        if recorder.wants_states(step) or step == steps - 1:
            recorder.states(step, machines)
        if targets is not None:
            nats += [metrics.negative_log_likelihood(y, targets[step]).sum() for y in (reference, actual)]
        tick(1)
    score = None if targets is None else TextScore(targets.size, text_bytes, float(nats[0]), float(nats[1]))
    return recorder.scenario(name, what, rows, steps, locked, score)


def _stride(states: Mapping[str, np.ndarray], steps: int) -> int:
    """How often states are compared: at every step, or more rarely where that would take longer than the steps."""
    size = sum(state.nbytes for state in states.values())
    return min(_LARGEST_STRIDE, -(-size * steps // _STATE_BYTES))


@dataclass
class OpenSeries:
    """A series in the making."""

    steps: list[int] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    sensitivity: list[float] = field(default_factory=list)

    def add(self, step: int, error: float, sensitivity: float) -> None:
        self.steps.append(step)
        self.error.append(float(error))
        self.sensitivity.append(float(sensitivity))

    def freeze(self) -> Series:
        return Series(tuple(self.steps), tuple(self.error), tuple(self.sensitivity))


class Recorder:
    """Collects the errors of one run. `stride`: how often states are compared; `output`: what it compares."""

    def __init__(self, stride: int, output: str):
        self._stride, self._output = stride, output
        self.output_series = OpenSeries()
        self.state_series: dict[str, OpenSeries] = {}
        self.kl: list[float] = []
        self.kl_sensitivity: list[float] = []
        self.disagreements: list[Disagreement] = []

    def wants_states(self, step: int) -> bool:
        return step % self._stride == 0

    def outputs(self, step: int, reference: np.ndarray, nudged: np.ndarray, actual: np.ndarray) -> None:
        error = metrics.relative_error(reference, actual).max()
        self.output_series.add(step, error, metrics.relative_error(reference, nudged).max())
        if self._output == LOGITS:
            self.kl.append(float(metrics.kl_divergence(reference, actual).mean()))
            self.kl_sensitivity.append(float(metrics.kl_divergence(reference, nudged).mean()))
            gaps = metrics.top_one_gap(reference, actual)
            self.disagreements += [Disagreement(step, int(row), float(gaps[row])) for row in np.flatnonzero(gaps)]

    def states(self, step: int, machines: Machines) -> None:
        reference = machines.reference.read_states()
        errors = metrics.state_errors(reference, machines.bundle.read_states())
        sensitivities = metrics.state_errors(reference, machines.nudged.read_states())
        for name, error in errors.items():
            self.state_series.setdefault(name, OpenSeries()).add(step, error, sensitivities[name])

    def scenario(
        self,
        name: str,
        what: str,
        rows: int,
        steps: int,
        locked: bool = False,
        text: TextScore | None = None,
        forecast: ForecastScore | None = None,
    ) -> Scenario:
        """All that was recorded; arguments as the fields of `Scenario`."""
        return Scenario(
            name,
            what,
            locked,
            rows,
            steps,
            {self._output: self.output_series.freeze()},
            self.kl,
            self.disagreements,
            {state: series.freeze() for state, series in self.state_series.items()},
            text,
            forecast,
            self.kl_sensitivity,
        )
