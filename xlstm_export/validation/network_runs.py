"""How a network is fed, and what comes of it: runs of passes of any lengths, and windows, held against the module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..bundle import Manifest, TensorSpec
from ..networks.plan import Plan
from ..runtime import Session
from . import metrics
from .network_reference import NetworkReference
from .scenarios import OpenSeries, Scenario
from .tolerance import Series

_PREFIXES = 12
"""Positions of a run at which an output without positions is compared: each takes the module a forward of its own."""


@dataclass(frozen=True)
class References:
    """What the bundle is compared with."""

    module: NetworkReference
    nudged: NetworkReference
    """The module in float32 with its weights moved by one unit roundoff: see `tolerance`."""
    integers: int
    """Integer inputs are drawn below this."""
    axes: Mapping[str, int | None]
    """The axis of time of each input and output, where the module has one. It may be longer there than in the bundle:
    one of mode `step` takes single positions of what the module takes whole."""
    plan: Plan | None = None
    """How the module runs as a stream, of which the states are compared; None: they are not."""

    @property
    def stepping(self) -> bool:
        """Whether the module itself takes one position a call, and its state is carried from call to call."""
        return self.module.manifest.mode == "step" and not any(axis is not None for axis in self.axes.values())

    def shape(self, tensor: TensorSpec, batch: int, positions: int) -> tuple[int, ...]:
        """Of an input, for the module."""
        shape = [*tensor.sized(batch, positions)]
        if (axis := self.axes[tensor.name]) is not None:
            shape[axis] = positions
        return tuple(shape)

    def draw(self, tensor: TensorSpec, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        """Random values of an input."""
        if tensor.dtype == "float32":
            return random.standard_normal(shape, np.float32)
        return random.integers(0, self.integers, shape).astype(tensor.dtype)


@dataclass(frozen=True)
class Feeding:
    """One pass of a run."""

    lengths: tuple[int, ...]
    """Positions of each row."""
    resets: tuple[int, ...] = ()
    """Rows that are reset before it."""


@dataclass
class _Values:
    """What one output is at positions of rows: actual, reference and nudged."""

    at: list[int] = field(default_factory=list)
    values: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, at: int, actual: np.ndarray, reference: np.ndarray, nudged: np.ndarray) -> None:
        self.at.append(at)
        self.values.append((actual, reference, nudged))

    def series(self) -> OpenSeries:
        """At each position the worst row's error, relative to the spread of the reference over all of them."""
        scale = metrics.overall_scale([reference for _, reference, _ in self.values])
        worst: dict[int, tuple[float, float]] = {}
        for at, (actual, reference, nudged) in zip(self.at, self.values, strict=True):
            errors = [metrics.largest_difference(reference, value) / scale for value in (actual, nudged)]
            before = worst.get(at, (0.0, 0.0))
            worst[at] = (max(before[0], errors[0]), max(before[1], errors[1]))
        series = OpenSeries()
        for at in sorted(worst):
            series.add(at, *worst[at])
        return series


def run_passes(
    session: Session,
    references: References,
    passes: Sequence[Feeding],
    name: str,
    what: str,
    random: np.random.Generator,
    tick: Callable[[int], None],
) -> Scenario:
    """Feed a bundle random inputs in passes and compare it, position by position, with the module over the whole.

    Args:
        session: of a bundle that keeps states; it is reset first.
        references: the module.
        passes: what each pass holds; in mode `step`, one position of every row.
        name, what: of the scenario.
        tick: called with the number of positions of each reference run.
    """
    run = _Run(session, references, passes, random)
    actual = run.bundle()
    values = {tensor.name: _Values() for tensor in session.manifest.outputs}
    for row in range(session.batch):
        for start, end in run.segments(row):
            ends = [at for at in run.ends[row] if start <= at < end]
            for output in session.manifest.outputs:
                own = {at: value for at, value in actual[output.name][row].items() if start <= at < end}
                sampled = references.axes[output.name] is None and not references.stepping
                positions = _sampled(ends) if sampled else list(own)
                sides = [run.reference(side, row, start, end, output, positions) for side in run.sides]
                for at in positions:
                    values[output.name].add(at, own[at], sides[0][at], sides[1][at])
            tick(end - start)
    outputs = {output: own.series().freeze() for output, own in values.items()}
    return Scenario(name, what, False, session.batch, max(map(len, run.fed)), outputs, [], [], run.states())


class _Run:
    """The inputs of one run, what the bundle gives for them, and what the module does."""

    def __init__(
        self, session: Session, references: References, passes: Sequence[Feeding], random: np.random.Generator
    ):
        self._session, self._passes, manifest = session, passes, session.manifest
        self._references, self._random = references, random
        self.sides = (references.module, references.nudged)
        rows = session.batch
        totals = [sum(one.lengths[row] for one in passes) for row in range(rows)]
        self.fed = [range(total) for total in totals]
        self._stepping, self._axes = references.stepping, references.axes
        longest = max(totals)
        self._inputs = {
            t.name: references.draw(
                t, (longest, *t.sized(rows)) if self._stepping else references.shape(t, rows, longest), random
            )
            for t in manifest.inputs
        }
        self.ends: list[list[int]] = [[] for _ in range(rows)]
        self._starts: list[list[int]] = [[0] for _ in range(rows)]
        self._whole: dict[tuple[int, int, int, int], dict[str, np.ndarray]] = {}

    def bundle(self) -> dict[str, list[dict[int, np.ndarray]]]:
        """By output, for each row the values by position."""
        session, outputs = self._session, self._session.manifest.outputs
        found: dict[str, list[dict[int, np.ndarray]]] = {t.name: [{} for _ in self.fed] for t in outputs}
        at = [0] * session.batch
        session.reset()
        for one in self._passes:
            for row in one.resets:
                session.reset(row)
                self._starts[row].append(at[row])
            lengths = None if session.manifest.lengths is None else np.array(one.lengths)
            given = session.run(self._block(at, one.lengths), lengths)
            for row, length in enumerate(one.lengths):
                if not length:
                    continue
                for tensor in outputs:
                    value = given[tensor.name][row]
                    if (axis := self._axes[tensor.name]) is None:
                        found[tensor.name][row][at[row] + length - 1] = value
                    else:
                        parts = np.moveaxis(value, axis - 1, 0)[:length]
                        found[tensor.name][row].update(enumerate(parts, at[row]))
                at[row] += length
                self.ends[row].append(at[row] - 1)
        self._left = session.read_states()
        return found

    def states(self) -> dict[str, Series]:
        """After the last pass, by name: the worst row's error against the module's lifted form."""
        if (plan := self._references.plan) is None:
            return {}
        worst: dict[str, tuple[float, float]] = {}
        for row, starts in enumerate(self._starts):
            passes = self._cut(row, starts[-1], len(self.fed[row]))
            reference, nudged = (side.states(plan, passes) for side in self.sides)
            actual = {name: value[row : row + 1] for name, value in self._left.items()}
            errors, sensitivities = (metrics.state_errors(reference, values) for values in (actual, nudged))
            for name in reference:
                before = worst.get(name, (0.0, 0.0))
                worst[name] = max(before[0], errors[name]), max(before[1], sensitivities[name])
        last = max(map(len, self.fed)) - 1
        return {name: Series((last,), (error,), (sensitivity,)) for name, (error, sensitivity) in worst.items()}

    def _block(self, at: Sequence[int], lengths: Sequence[int]) -> dict[str, np.ndarray]:
        """The inputs of one pass; padding is random as the rest is, so that taking it for positions shows."""
        if self._stepping:
            return {name: values[at[0]] for name, values in self._inputs.items()}
        block, most = {}, max(lengths)
        for tensor in self._session.manifest.inputs:
            values, axis = self._inputs[tensor.name], self._axes[tensor.name]
            if axis is not None:
                shape = self._references.shape(tensor, len(lengths), most)
                part = self._references.draw(tensor, shape, self._random)
                for row, length in enumerate(lengths):
                    source = np.moveaxis(values[row], axis - 1, 0)[at[row] : at[row] + length]
                    np.moveaxis(part[row], axis - 1, 0)[:length] = source
                values = part
            block[tensor.name] = values
        return block

    def segments(self, row: int) -> Iterator[tuple[int, int]]:
        """From the first position or a reset to the next, or to the end."""
        starts = self._starts[row]
        return ((a, b) for a, b in zip(starts, [*starts[1:], len(self.fed[row])], strict=True) if a < b)

    def reference(
        self, side: NetworkReference, row: int, start: int, end: int, output: TensorSpec, positions: Sequence[int]
    ) -> dict[int, np.ndarray]:
        """One output of the module at positions of a segment of one row, which is all that it sees."""
        if self._stepping:
            whole = self._run_module(side, row, start, end)[output.name]
            return dict(enumerate(whole, start))
        if (axis := self._axes[output.name]) is not None:
            whole = self._run_module(side, row, start, end)[output.name]
            return dict(enumerate(np.moveaxis(whole[0], axis - 1, 0), start))
        return {at: self._run_module(side, row, start, at + 1)[output.name][0] for at in positions}

    def _run_module(self, side: NetworkReference, row: int, start: int, end: int) -> dict[str, np.ndarray]:
        key = (self.sides.index(side), row, start, end)
        if key not in self._whole:
            passes = self._cut(row, start, end)
            if self._stepping:
                found = side.steps(passes)
                self._whole[key] = {name: np.stack([step[name][0] for step in found]) for name in found[0]}
            else:
                self._whole[key] = side.sequence(passes[0])
        return self._whole[key]

    def _cut(self, row: int, start: int, end: int) -> list[dict[str, np.ndarray]]:
        """Positions of one row, as the module takes them: step by step, or all in one pass; none in no pass."""
        if start == end:
            return []
        if self._stepping:
            return [{name: v[at, row : row + 1] for name, v in self._inputs.items()} for at in range(start, end)]
        cut = {}
        for tensor in self._session.manifest.inputs:
            values, axis = self._inputs[tensor.name][row : row + 1], self._axes[tensor.name]
            cut[tensor.name] = values if axis is None else values.take(np.arange(start, end), axis)
        return [cut]


def _sampled(ends: Sequence[int]) -> Sequence[int]:
    """Some of them, the first and last among them."""
    if len(ends) <= _PREFIXES:
        return ends
    return [ends[i] for i in np.linspace(0, len(ends) - 1, _PREFIXES).astype(int)]


def run_windows(
    sessions: Sequence[Session],
    references: References,
    positions: int,
    random: np.random.Generator,
    tick: Callable[[int], None],
) -> Scenario:
    """Compare what a bundle gives for whole windows of one length with what the module gives for each of them alone.

    Args:
        sessions: of different batches; each is fed once.
        references: the module.
        positions: of a window; nothing where the inputs' sizes are fixed.
        tick: called with 1 after each window.
    """
    manifest: Manifest = sessions[0].manifest
    values = {tensor.name: _Values() for tensor in manifest.outputs}
    at = 0
    for session in sessions:
        inputs = {t.name: references.draw(t, t.sized(session.batch, positions), random) for t in manifest.inputs}
        actual = session.run(inputs)
        for row in range(session.batch):
            alone = {name: value[row : row + 1] for name, value in inputs.items()}
            reference, nudged = references.module.sequence(alone), references.nudged.sequence(alone)
            for name, own in values.items():
                own.add(at, actual[name][row], reference[name][0], nudged[name][0])
            at += 1
            tick(1)
    batches = " and ".join(str(session.batch) for session in sessions)
    sized = any(tensor.time_axis is not None for tensor in manifest.inputs)
    what = f"windows of {positions} positions, batch {batches}" if sized else f"windows, batch {batches}"
    outputs = {name: own.series().freeze() for name, own in values.items()}
    name = f"window-{positions}" if sized else "windows"
    return Scenario(name, what, False, max(s.batch for s in sessions), positions, outputs, [], [], {})
