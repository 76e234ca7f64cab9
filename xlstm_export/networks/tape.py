"""The states of one pass of a network: handed to each call of a lifted module, and taken back from it.

A lifted module does not hold its states: it asks the tape for those of this call, in the order in which calls come, and
leaves the next ones there. So the states become the arguments and results of the traced network, a module that is
called twice in a pass has two sets of them, and the user's own code need not know of any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..modeling.layers import Chunk
from ..modeling.model import StateSpec

Role = Literal["time", "inner"]
"""`time`: the call runs over the positions of the pass, and its states live on. `inner`: over another axis, which is
whole in each pass (frequencies of one frame), from zeros."""


@dataclass(frozen=True)
class Call:
    """One call of a lifted module in a pass, as the runs of `plan.make_plan` found it."""

    name: str
    """`encoder.blocks.0`; of a second call in one pass `encoder.blocks.0#2`."""
    role: Role
    fold: int
    """Rows of the call for each row of the batch: (B * fold, S, D)."""
    state_shapes: Mapping[str, tuple[int, ...]]

    @property
    def states(self) -> list[StateSpec]:
        """What the bundle keeps of it."""
        if self.role == "inner":
            return []
        folded = (self.fold,) if self.fold > 1 else ()
        return [StateSpec(f"{self.name}.{name}", (*folded, *shape)) for name, shape in self.state_shapes.items()]


@dataclass(frozen=True)
class Seen:
    """What a call was fed while a plan was made."""

    name: str
    rows: int
    positions: int
    state_shapes: Mapping[str, tuple[int, ...]]


@dataclass
class Tape:
    """Of one pass over (batch, positions). Without a plan every call runs from zeros over all that it is fed."""

    batch: int
    positions: int
    lengths: Tensor | None = None
    """(B) int32: positions of each row that are there; None: all of them, one step or a whole window."""
    plan: Mapping[str, Call] | None = None
    states: Mapping[str, Tensor] = field(default_factory=dict)
    """What the pass starts from, by name."""
    next_states: dict[str, Tensor] = field(default_factory=dict)
    handed_out: set[int] = field(default_factory=set)
    """The identities of tensors that the user's code was given as states."""
    kept: list[Tensor] = field(default_factory=list)
    """Those tensors, so that no other takes over an identity."""
    seen: list[Seen] = field(default_factory=list)
    inside: int = 0
    """Lifted modules that run: what they call is none of the user's."""
    observe: Callable[[str, object], None] | None = None
    """Told of what each lifted module gave, by its path."""
    _counts: Counter[str] = field(default_factory=Counter)

    def enter(
        self,
        path: str,
        rows: int,
        positions: int,
        state_shapes: Mapping[str, tuple[int, ...]],
        dtype: torch.dtype,
        start: tuple[Tensor, ...] | None = None,
    ) -> tuple[str, tuple[Tensor, ...], Chunk]:
        """The name of this call, its states (rows, ...) and what its positions are.

        `start` is what the user's code passes as states, None for zeros. It counts where the call begins anew; where
        its states live on, the tape has them.
        """
        self._counts[path] += 1
        count = self._counts[path]
        name = path if count == 1 else f"{path}#{count}"
        self.seen.append(Seen(name, rows, positions, state_shapes))
        call = None if self.plan is None else self.plan[name]
        if call is None or call.role == "inner":
            states = tuple(torch.zeros(rows, *shape, dtype=dtype) for shape in state_shapes.values())
            if start is not None:
                states = tuple(value.to(dtype).reshape(zero.shape) for value, zero in zip(start, states, strict=True))
            return name, states, Chunk(rows, positions, torch.full((rows,), positions, dtype=torch.int32))
        states = tuple(
            self.states[spec.name].reshape(rows, *shape).to(dtype)
            for spec, shape in zip(call.states, state_shapes.values(), strict=True)
        )
        lengths = self.lengths
        if lengths is not None and call.fold > 1:
            lengths = lengths.repeat_interleave(call.fold)
        return name, states, Chunk(rows, positions, lengths)

    def leave(self, name: str, states: Sequence[Tensor]) -> None:
        """Take the next states of a call."""
        call = None if self.plan is None else self.plan[name]
        if call is not None:
            for spec, state in zip(call.states, states, strict=bool(call.states)):
                self.next_states[spec.name] = state.reshape(self.batch, *spec.shape)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """While a lifted module runs."""
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def hand_out(self, states: Sequence[Tensor]) -> None:
        """Remember what the user's code is given as states: where it returns them, they are no outputs."""
        self.kept += states
        self.handed_out |= {id(state) for state in states}
