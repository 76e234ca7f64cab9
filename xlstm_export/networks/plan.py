"""How a network runs as a stream: found out by running it, not asked of its user.

Two runs over sequences of different lengths show which calls of lifted modules run along time, and which of the user's
function calls have a window there. Whether the whole then streams is tested (`streaming`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ErrorKind, UserError
from ..modeling.layers import Dtypes
from ..modeling.model import StateSpec
from .culprit import Modules
from .functions import TimeCall, TimeFunctions
from .inputs import NetworkInput
from .lifted import Lifted, TapeHolder
from .pieces import lift_modules
from .tape import Call, Seen, Tape


@dataclass(frozen=True)
class LiftedNetwork:
    """A network whose known modules are lifted, and how to run it for one pass."""

    module: nn.Module
    holder: TapeHolder
    lifted: Mapping[str, Lifted]
    inputs: tuple[NetworkInput, ...]

    @classmethod
    def of(cls, network: nn.Module, inputs: tuple[NetworkInput, ...], dtypes: Dtypes) -> LiftedNetwork:
        """Lift a network in place: give it a copy.

        Raises:
            UserError: it holds nothing that is known, or a variant that is not supported.
        """
        module, holder, lifted = lift_modules(network, dtypes)
        return cls(module, holder, lifted, inputs)

    def run(self, values: Sequence[Tensor], tape: Tape, mode: TimeFunctions) -> Any:
        """What the user's `forward` returns for one pass."""
        named = {one.name: value for one, value in zip(self.inputs, values, strict=True)}
        self.holder.tape = tape
        try:
            with mode:
                return self.module(**named)
        finally:
            self.holder.tape = None


@dataclass(frozen=True)
class Plan:
    """Of a network that may stream: its calls along time, and all its states."""

    calls: Mapping[str, Call]
    functions: Mapping[int, TimeCall]
    windows: Mapping[str, StateSpec]
    """States of function calls, by name."""

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """In the order of the calls, then the windows."""
        return (*(spec for call in self.calls.values() for spec in call.states), *self.windows.values())

    def zeros(self, batch: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Before the first position."""
        return {spec.name: torch.zeros(batch, *spec.shape, dtype=dtype) for spec in self.states}

    def tape(self, batch: int, positions: int, lengths: Tensor | None, states: Mapping[str, Tensor]) -> Tape:
        return Tape(batch, positions, lengths, self.calls, states)


@dataclass(frozen=True)
class Sample:
    """One run over a whole sequence, from zeros, with notes of what was called."""

    batch: int
    positions: int
    calls: list[Seen]
    functions: Mapping[int, list[TimeCall]]
    shapes: Mapping[int, tuple[int, ...]]
    """Of the tensors that the functions were called on."""
    returned: Any
    handed_out: set[int]


def sample(network: LiftedNetwork, values: Sequence[Tensor], batch: int, positions: int) -> Sample:
    """Run a network over whole sequences."""
    tape, watch = Tape(batch, positions), Modules(network.module)
    has_time = any(one.time_axis is not None for one in network.inputs)
    mode = TimeFunctions(tape, None if has_time else {}, module=lambda: watch.now)
    with watch.watching():
        returned = network.run(values, tape, mode)
    return Sample(batch, positions, tape.seen, mode.noted, mode.shapes, returned, tape.handed_out)


def make_plan(first: Sample, second: Sample) -> Plan:
    """From two runs that differ in batch and positions.

    Raises:
        CannotStream: a call runs over positions that are not those of the input.
    """
    if [seen.name for seen in first.calls] != [seen.name for seen in second.calls]:
        more = max(first.calls, second.calls, key=len)
        raise CannotStream(f"{more[-1].name} is called a number of times that depends on the sequence's length")
    calls = {a.name: _call(a, b, first, second) for a, b in zip(first.calls, second.calls, strict=True)}
    functions = {
        index: replace(candidates[0], fold=first.shapes[index][0] // first.batch)
        for index, candidates in first.functions.items()
        if candidates and candidates == second.functions.get(index)
    }
    windows = {}
    for index, call in functions.items():
        if call.width:
            shape = [*first.shapes[index]]
            shape[call.axis] = call.width
            folded = [call.fold] if call.fold > 1 else []
            windows[call.name] = StateSpec(call.name, (*folded, *shape[1:]))
    return Plan(calls, functions, windows)


class CannotStream(Exception):
    """Why a network has no stream, as the end of a sentence."""


def _call(a: Seen, b: Seen, first: Sample, second: Sample) -> Call:
    fold = a.rows // first.batch
    whole = a.rows == fold * first.batch and b.rows == fold * second.batch
    if whole and (a.positions, b.positions) == (first.positions, second.positions):
        return Call(a.name, "time", fold, a.state_shapes)
    if a.positions == b.positions:
        return Call(a.name, "inner", 1, a.state_shapes)
    raise CannotStream(
        f"{a.name} runs over {b.positions} positions where the input has {second.positions}: time is resampled"
    )


def require_known(network: LiftedNetwork) -> None:
    """See that there is something of xLSTM in a network.

    Raises:
        UserError: nothing was found.
    """
    if not network.lifted:
        raise UserError(
            ErrorKind.argument,
            "The network holds no block, layer or cell of xLSTM that is known (mLSTMBlock, sLSTMBlock, their layers "
            "and cells, those of xLSTMLarge, transformers and TiRex). For networks without, torch.onnx.export does.",
        )
