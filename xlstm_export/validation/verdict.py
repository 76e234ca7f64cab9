"""From data to verdict: every error of every run against its limits, and where a faulty bundle first goes wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .scenarios import Scenario
from .tolerance import KL, Limit, Quantization, Series, Tolerance


@dataclass(frozen=True)
class Verdict:
    """One error of one run, held against one limit."""

    run: str
    quantity: str
    """The name of an output or of a state."""
    is_output: bool
    limit: Limit
    measured: float
    passed: bool
    first_step: int | None
    """The first step at which the error is beyond the limit, when it failed."""

    @property
    def share(self) -> float:
        """Of what is allowed; beyond 1 it failed."""
        return self.measured / self.limit.value

    def describe(self) -> str:
        relation = "<=" if self.passed else ">"
        error = f"{self.limit.kind} error {self.measured:.1e} {relation} {self.limit.value:.1e}"
        return f"{self.run}: {self.quantity}, {error}"


@dataclass(frozen=True)
class Fault:
    """Where a bundle first leaves its tolerance."""

    run: str
    step: int
    quantity: str
    block: int | str | None
    """The first block whose state is wrong, in a network by its path; None when only the outputs are."""
    explanation: str


def judge(runs: Iterable[Scenario], tolerance: Tolerance) -> list[Verdict]:
    """Every limit on every error, in the order of the runs and, within one, of the model."""
    verdicts = []
    for run in runs:
        recurrence = 1 if run.locked else run.steps
        measured = [(name, series, False) for name, series in run.states.items()]
        measured += [(name, series, True) for name, series in run.outputs.items()]
        for quantity, series, is_output in measured:
            for limit in tolerance.limits(series, recurrence, is_output):
                passed = limit.passed(series)
                first = None if passed else _first_beyond(series, limit)
                verdicts.append(Verdict(run.name, quantity, is_output, limit, limit.measure(series), passed, first))
        if tolerance.quantization is not None:
            verdicts += _judge_quality(run, tolerance.quantization)
    return verdicts


def _judge_quality(run: Scenario, quantization: Quantization) -> Iterator[Verdict]:
    """What a quantised language model may lose in a run."""
    found = []
    if run.kl:
        found.append((Limit("kl", KL * float(np.mean(run.kl_sensitivity))), float(np.mean(run.kl))))
    if run.text is not None:
        found.append((Limit("text", quantization.text_limit), run.text.bundle_nats / run.text.reference_nats - 1))
    for limit, measured in found:
        yield Verdict(run.name, next(iter(run.outputs)), True, limit, measured, measured <= limit.value, None)


def _first_beyond(series: Series, limit: Limit) -> int:
    return series.steps[int((np.asarray(series.error) > limit.value).argmax())]


def first_fault(runs: Sequence[Scenario], verdicts: Sequence[Verdict]) -> Fault | None:
    """In the first run that fails: the first block, in the order of the model, that has a wrong state.

    A block's states depend on the blocks before it alone, so a fault shows in its own block or the next and
    everywhere behind, never before.
    """
    for run in runs:
        failed = [v for v in verdicts if v.run == run.name and not v.passed]
        if not failed:
            continue
        first = failed[0]
        block = None if first.is_output else block_of(first.quantity)
        same = [v for v in failed if v.is_output == first.is_output and (v.is_output or block_of(v.quantity) == block)]
        wrong = {v.quantity for v in same}
        step = min((v.first_step for v in same if v.first_step is not None), default=run.steps - 1)
        explain = _explain_outputs(wrong, run) if first.is_output else _explain_state(first.quantity, wrong, run.states)
        return Fault(run.name, step, first.quantity, block, explain)
    return None


def block_of(state: str) -> int | str:
    """`blocks.3.mlstm.C` → 3; of a network `encoder.mlstm.C` → `encoder.mlstm`."""
    block = re.fullmatch(r"blocks\.(\d+)\.\w+\.\w+", state)
    return int(block[1]) if block else state.rpartition(".")[0] or state


def _explain_outputs(wrong: set[str], run: Scenario) -> str:
    """Where to look when no state is wrong, or none was compared."""
    if run.states:
        last = block_of([*run.states][-1])
        if isinstance(last, str):
            return "every state is right at the end of the run, so the fault lies behind the cells"
        return f"every state is right, so the fault lies behind the cell of blocks.{last}, in the last norm or the head"
    right = [name for name in run.outputs if name not in wrong]
    beside = f", while {', '.join(right)} {'is' if len(right) == 1 else 'are'} right" if right else ""
    wrong_outputs = f"the bundle gives something else than the reference, {run.what}{beside}"
    return f"only outputs are compared in this run: {wrong_outputs}"


def _explain_state(first: str, wrong: set[str], states: Iterable[str]) -> str:
    """Where to look: a state is the work of its own block up to the cell, and of every block before."""
    block = block_of(first)
    if isinstance(block, str):
        return f"the fault lies in {block}, or in what feeds it"
    window = f"{first.rsplit('.', 1)[0]}.conv"
    if window in states and window not in wrong:
        return f"its convolution window is right, so the fault lies in blocks.{block}, between that and the cell"
    before = f"in blocks.{block - 1} behind the cell" if block else "in the embedding"
    return f"the fault lies in blocks.{block}, up to its cell, or {before}"
