"""Modules that stand in a network for upstream's: the same calls and results, the states on the tape."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..modeling.layers import Chunk
from .tape import Tape

States = tuple[Tensor, ...]


class StepModule(Protocol):
    """A block or layer of `modeling`: x (N, D) and states in, y (N, D) and next states out."""

    state_shapes: Any  # names to shapes without the batch

    def __call__(self, x: Tensor, states: States, chunk: Chunk) -> tuple[Tensor, States]: ...


def lifted(method: Callable[..., Any]) -> Callable[..., Any]:
    """Of a lifted module's calls: what happens inside is not the user's code."""

    @functools.wraps(method)
    def call(self: Lifted, *args: object, **kwargs: object) -> Any:
        tape = self._holder.now
        with tape.quiet():
            result = method(self, *args, **kwargs)
        if tape.observe is not None and not tape.inside:
            tape.observe(self.path, result)
        return result

    return call


class TapeHolder:
    """Where the modules of one network find the tape of the pass that runs."""

    def __init__(self) -> None:
        self.tape: Tape | None = None

    @property
    def now(self) -> Tape:
        assert self.tape is not None, "a lifted network runs inside a pass"
        return self.tape


class Lifted(nn.Module):
    """Base of the modules that stand for others; `config` and other attributes are those of the original."""

    def __init__(self, path: str, original: nn.Module, holder: TapeHolder, step: Any):
        """`step`: a `StepModule`, with the original's weights."""
        super().__init__()
        self.path, self.module = path, step
        self.kind = type(original).__name__
        """The class that it stands for."""
        # In no list of submodules, whose parameters would be its own.
        self.__dict__["_original"], self.__dict__["_holder"] = original, holder

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_original"], name)

    def run(self, x: Tensor, start: States | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """One call over x (B, S, D): y (B, S, D') in x's dtype, and the next states by name.

        `start` is what the user's code passed as states, in our layout; see `Tape.enter` for when it counts.
        """
        tape, (rows, positions, width) = self._holder.now, x.shape
        step: StepModule = self.module
        shapes = step.state_shapes
        compute = torch.float64 if x.dtype == torch.float64 else torch.float32
        name, states, chunk = tape.enter(self.path, rows, positions, shapes, compute, start)
        y, next_states = step(x.reshape(rows * positions, width), states, chunk)
        tape.leave(name, next_states)
        return y.reshape(rows, positions, y.shape[-1]).to(x.dtype), dict(zip(shapes, next_states, strict=True))

    def give(self, *states: Tensor) -> States:
        """States in upstream's layout, for code that carries them by hand."""
        self._holder.now.hand_out(states)
        return states


def mlstm_start(state: Any) -> States | None:
    """C (B, NH, DH, DH), n (B, NH, DH, 1) and m (B, NH, 1, 1), as upstream's `step` takes them, in our layout."""
    if state is None:
        return None
    C, n, m = state
    return C, n[..., 0], m[..., 0, 0]


def slstm_start(state: Tensor | None, heads: int) -> States | None:
    """y, c, n and m, (4, B, D), as upstream's sLSTM takes them, in our layout."""
    if state is None:
        return None
    return tuple(part.unflatten(-1, (heads, -1)) for part in state.unbind(0))


class LiftedSmall(Lifted):
    """For the blocks and layers of the `xlstm` package: `forward(x)`, and `step(x, **state)` → (y, state).

    A state that is passed to `step` has no effect in a stream: it is the one that the last step gave, which is on the
    tape.
    """

    @lifted
    def forward(self, x: Tensor, **_: object) -> Tensor:
        return self.run(x)[0]

    @lifted
    def step(
        self, x: Tensor, mlstm_state: Any = None, slstm_state: Any = None, conv_state: Any = None, **_: object
    ) -> tuple[Tensor, dict[str, object]]:
        heads = next(iter(self.module.state_shapes.values()))[0]
        start = mlstm_start(mlstm_state) or slstm_start(slstm_state, heads)
        if start and conv_state is not None:
            start = (*start, conv_state[0][:, 1:])
        y, states = self.run(x, start)
        return y, self._upstream_states({name.rpartition(".")[2]: state for name, state in states.items()})

    def _upstream_states(self, states: Mapping[str, Tensor]) -> dict[str, object]:
        """As `mLSTMLayer.step` and `sLSTMLayer.step` give them (`xlstm/blocks/*/layer.py`)."""
        convolution: States | None = None
        if "conv" in states:  # upstream's window has one column more, which is dead
            convolution = self.give(nn.functional.pad(states["conv"], (0, 0, 1, 0)))
        if "C" in states:
            C, n, m = states["C"], states["n"], states["m"]
            return {"mlstm_state": self.give(C, n[..., None], m[..., None, None]), "conv_state": convolution}
        (cell,) = self.give(torch.stack([states[name].flatten(1) for name in "ycnm"]))
        return {"conv_state": convolution, "slstm_state": cell}


class LiftedLarge(Lifted):
    """For the blocks and layers of xLSTM-7B: `forward(x, state)` → (y, state), also those of transformers."""

    @lifted
    def forward(self, x: Tensor, state: Any = None, **_: object) -> tuple[Tensor, States]:
        y, states = self.run(x, None if state is None else (*state[:2], state[2][..., 0]))
        C, n, m = states.values()
        return y, self.give(C, n, m[..., None])


class LiftedTiRex(Lifted):
    """For the blocks and layers of TiRex: `forward(x)`, of a layer also `forward(x, slstm_state)`, → y."""

    @lifted
    def forward(self, x: Tensor, slstm_state: Tensor | None = None) -> Tensor:
        return self.run(x, slstm_start(slstm_state, self.config.num_heads))[0]
