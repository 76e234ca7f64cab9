"""TensorRT reports a tree of phases, each with a number of steps; people want one number that only grows."""

from __future__ import annotations

import threading


class PhaseTree:
    """The fraction of a build that is done, from the calls of TensorRT's `IProgressMonitor`.

    A phase counts for one step of its parent. Calls may come from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self.fraction = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> float:
        with self._lock:
            self._phases[name] = _Phase(self._phases.get(parent) if parent else None, max(steps, 1))
            return self.fraction

    def step(self, name: str, step: int) -> float:
        """Step number `step` (from 0) of a phase is complete."""
        with self._lock:
            if phase := self._phases.get(name):
                phase.done = min(max(phase.done, step + 1), phase.steps)
                self._raise_to(phase.whole())
            return self.fraction

    def finish(self, name: str) -> float:
        with self._lock:
            if phase := self._phases.pop(name, None):
                phase.done = phase.steps
                self._raise_to(phase.whole())
            return self.fraction

    def _raise_to(self, fraction: float) -> None:
        self.fraction = max(self.fraction, min(fraction, 1.0))


class _Phase:
    def __init__(self, parent: _Phase | None, steps: int):
        self.parent, self.steps, self.done = parent, steps, 0

    def whole(self) -> float:
        """Fraction of the whole build that is done when this phase is where it is and nothing runs beside it."""
        fraction, phase = self.done / self.steps, self
        while phase.parent is not None:
            phase = phase.parent
            fraction = (phase.done + fraction) / phase.steps
        return fraction
