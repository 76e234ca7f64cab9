"""Does a network stream? Tested on the network itself: a whole sequence against pieces of it, with its states carried.

Not on its own weights alone. A path that mixes time may stand behind a gate that training has not opened yet, so the
test also runs on weights that were moved. In float64, where the network allows it, so that rounding is no excuse.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ErrorKind, UserError, printable
from ..modeling.layers import FLOAT32, Dtypes
from .copies import copy_network
from .culprit import Record, Recorder, first_mixing
from .failures import line_of, users_errors
from .functions import TimeFunctions
from .inputs import NetworkInput, largest_integer, pieces_of
from .outputs import flatten_outputs
from .plan import CannotStream, LiftedNetwork, Plan, make_plan, require_known, sample
from .unrounded import run_unrounded

FLOAT64 = Dtypes(torch.float64, torch.float64)
LENGTHS = ((17, 23), (61, 83), (241, 307))
"""Positions of the two runs; longer ones where a network refuses the shorter."""
BATCHES = (2, 3)
STEPS = 7
"""Passes of a network that is fed one position at a time."""


@dataclass(frozen=True)
class Carried:
    """A state that the user's code carries by hand: the argument of `forward`, and the index in what it returns."""

    argument: str
    output: int


@dataclass(frozen=True)
class Verdict:
    """How a network runs."""

    plan: Plan | None
    """Of a stream; None: it takes whole sequences."""
    reason: str | None
    """Why it does not stream, for people: "it does not stream: mean over axis 1 in head (net.py:31)"."""
    positions: int
    """Positions with which it was run."""
    carried: Carried | None = None


class _Trial:
    """A copy of the network and its lifted form, with the same weights and inputs."""

    def __init__(
        self, network: nn.Module, inputs: tuple[NetworkInput, ...], dtype: torch.dtype, moved: bool, seed: int
    ):
        self.inputs, self.dtype = inputs, dtype
        self.module = copy_network(network).to(dtype).eval()
        run_unrounded(self.module)
        if moved:
            _move_weights(self.module, seed)
        dtypes = FLOAT64 if dtype == torch.float64 else FLOAT32
        self.lifted = LiftedNetwork.of(copy_network(self.module), inputs, dtypes)
        self.generator = torch.Generator().manual_seed(seed)
        self.largest = largest_integer(network)
        self.tolerance = 1e-5 if dtype == torch.float64 else 1e-2

    def values(self, batch: int, positions: int) -> list[Tensor]:
        drawn = [one.random(batch, positions, self.generator, self.largest) for one in self.inputs]
        return [value.to(self.dtype) if value.is_floating_point() else value for value in drawn]

    def upstream(self, values: Sequence[Tensor], **more: object) -> object:
        with users_errors("The network fails on random inputs"):
            return self.module(**{one.name: v for one, v in zip(self.inputs, values, strict=True)}, **more)

    def close(self, a: Tensor, b: Tensor) -> bool:
        """Equal but for rounding, relative to the spread."""
        if a.shape != b.shape:
            return False
        if not a.is_floating_point():
            return bool((a == b).all())
        if not a.numel():
            return True
        spread = max(float(a.max() - a.min()), float(a.abs().max()), 1e-6)
        return float((a - b).abs().max()) <= self.tolerance * spread


@torch.no_grad()
def decide(network: nn.Module, inputs: tuple[NetworkInput, ...], seed: int = 0) -> Verdict:
    """Run a network and its lifted form, whole and in pieces.

    Args:
        network: the user's, in eval mode.
        inputs: its inputs; where none has time, it is fed one position at a time.

    Raises:
        UserError: the network fails on its inputs, holds nothing that is known, or what was lifted computes something
            else than the network does.
    """
    dtype = _dtype_of(network, inputs, seed)
    if all(one.time_axis is None for one in inputs):
        return _decide_steps(network, inputs, dtype, seed)
    verdicts = []
    for moved in (False, True):
        trial = _Trial(network, inputs, dtype, moved, seed)
        require_known(trial.lifted)
        verdicts.append(_decide_stream(trial, _lengths(trial, network)))
    return next((v for v in verdicts if v.plan is None), verdicts[0])


def _dtype_of(network: nn.Module, inputs: tuple[NetworkInput, ...], seed: int) -> torch.dtype:
    """float64 where the user's code runs in it."""
    trial = _Trial(network, inputs, torch.float64, False, seed)
    for pair in LENGTHS:
        try:
            out = flatten_outputs(trial.upstream(trial.values(BATCHES[0], _limited(network, pair)[0])))
        except UserError:
            continue
        return torch.float64 if all(v.dtype != torch.float32 for v in out.values) else torch.float32
    return torch.float32


def _lengths(trial: _Trial, network: nn.Module) -> tuple[int, int]:
    """The shortest lengths that the network accepts."""
    for pair in LENGTHS:
        pair = _limited(network, pair)
        try:
            for batch, positions in zip(BATCHES, pair, strict=True):
                trial.upstream(trial.values(batch, positions))
            return pair
        except UserError:
            if pair == _limited(network, LENGTHS[-1]):
                raise
    raise AssertionError("the last pair returns or raises")


def _limited(network: nn.Module, pair: tuple[int, int]) -> tuple[int, int]:
    """No longer than upstream's context (`context_length`), which its masks are made for."""
    configs: list[Any] = [getattr(module, "config", None) for module in network.modules()]
    limit = min(
        (c.context_length for c in configs if isinstance(getattr(c, "context_length", None), int)), default=10**9
    )
    limit = limit if limit > 0 else 10**9
    return (pair[0], pair[1]) if pair[1] <= limit else (max(1, limit - 6), limit)


def _decide_stream(trial: _Trial, lengths: tuple[int, int]) -> Verdict:
    samples, values = [], []
    for batch, positions in zip(BATCHES, lengths, strict=True):
        values.append(trial.values(batch, positions))
        reference = flatten_outputs(trial.upstream(values[-1]))
        samples.append(sample(trial.lifted, values[-1], batch, positions))
        ours = flatten_outputs(samples[-1].returned, samples[-1].handed_out)
        theirs = dict(zip(reference.names, reference.values, strict=True))
        if not all(trial.close(_named(theirs, n), v) for n, v in zip(ours.names, ours.values, strict=True)):
            raise _differs(trial)
    try:
        plan = make_plan(*samples)
    except CannotStream as cannot:
        return Verdict(None, f"it does not stream: {cannot}", lengths[1])
    reason = _compare_pieces(trial, plan, values[1], lengths[1])
    return Verdict(plan if reason is None else None, reason, lengths[1])


@dataclass(frozen=True)
class _Run:
    """Pieces of a sequence one after the other, states carried: what was called, and what came out of each."""

    records: list[list[Record]]
    outputs: list[tuple[Tensor, ...]]
    names: tuple[str, ...]


def _compare_pieces(trial: _Trial, plan: Plan, values: Sequence[Tensor], positions: int) -> str | None:
    """Why pieces do not give what the whole gives; None where they do."""
    cuts = _cuts(positions)
    whole = _run(trial, plan, values, [positions])
    reference = flatten_outputs(trial.upstream(values))
    theirs = dict(zip(reference.names, reference.values, strict=True))
    try:
        pieces = _run(trial, plan, values, cuts)
    except Exception as error:
        message = printable(next(iter(str(error).splitlines()), ""))
        return f"it does not stream: on a piece of a sequence it fails at {line_of(error)} ({message})"
    if all(
        _output_agrees(trial, _named(theirs, name), [part[at] for part in pieces.outputs], cuts)
        for at, name in enumerate(whole.names)
    ):
        return None
    found = first_mixing(whole.records[0], pieces.records, cuts, trial.close)
    return f"it does not stream: {f'{found.function} {found.where}'.strip() if found else 'it mixes time'}"


def _run(trial: _Trial, plan: Plan, values: Sequence[Tensor], lengths: Sequence[int]) -> _Run:
    batch = BATCHES[1]
    states, run = plan.zeros(batch, trial.dtype), _Run([], [], ())
    for piece, length in zip(pieces_of(trial.inputs, values, lengths), lengths, strict=True):
        recorder = Recorder(trial.lifted.module)
        tape = plan.tape(batch, length, torch.full((batch,), length, dtype=torch.int32), states)
        tape.observe = recorder.module
        with recorder.watching():
            returned = trial.lifted.run(piece, tape, TimeFunctions(tape, plan.functions, recorder.call))
        flat = flatten_outputs(returned, tape.handed_out)
        states = tape.next_states
        run = _Run([*run.records, recorder.records], [*run.outputs, flat.values], flat.names)
    return run


def _output_agrees(trial: _Trial, whole: Tensor, parts: list[Tensor], lengths: Sequence[int]) -> bool:
    for axis in range(1, whole.dim()):
        if whole.shape[axis] == sum(lengths) and all(p.shape[axis] == n for p, n in zip(parts, lengths, strict=True)):
            return trial.close(whole, torch.cat(parts, axis))
    return trial.close(whole, parts[-1])


def _cuts(positions: int) -> list[int]:
    """Pieces of 1, 1, 5, 2 positions and the rest."""
    cuts = [n for n in (1, 1, 5, 2) if n < positions]
    while sum(cuts) >= positions:
        cuts.pop()
    return [*cuts, positions - sum(cuts)]


def _decide_steps(network: nn.Module, inputs: tuple[NetworkInput, ...], dtype: torch.dtype, seed: int) -> Verdict:
    """Of a network that is fed one position a call: it steps, or takes a whole sequence of fixed length."""
    verdict = Verdict(None, None, 1)
    for moved in (False, True):
        trial = _Trial(network, inputs, dtype, moved, seed)
        require_known(trial.lifted)
        first, second = (sample(trial.lifted, trial.values(batch, 1), batch, 1) for batch in BATCHES)
        plan = make_plan(first, second)
        carried = _carried(network, inputs, flatten_outputs(second.returned, second.handed_out).carried)
        states, state = plan.zeros(BATCHES[1], dtype), None
        for _ in range(STEPS if plan.states else 1):
            values = trial.values(BATCHES[1], 1)
            given: dict[str, object] = {} if carried is None or state is None else {carried.argument: state}
            returned: Any = trial.upstream(values, **given)
            state = None if carried is None else returned[carried.output]
            tape = plan.tape(BATCHES[1], 1, None, states)
            ours = flatten_outputs(trial.lifted.run(values, tape, TimeFunctions(tape, {})), tape.handed_out)
            states = tape.next_states
            reference = flatten_outputs(returned)
            theirs = dict(zip(reference.names, reference.values, strict=True))
            if not all(trial.close(_named(theirs, n), v) for n, v in zip(ours.names, ours.values, strict=True)):
                raise _differs(trial)
        verdict = Verdict(plan, None, 1, carried) if plan.states else Verdict(None, "no input has time (S)", 1)
    return verdict


def _named(theirs: dict[str, Tensor], name: str) -> Tensor:
    """An output that stands alone beside a carried state has another name where that is counted, too."""
    return theirs[name] if name in theirs else theirs["output_0"]


def _carried(network: nn.Module, inputs: Sequence[NetworkInput], output: int | None) -> Carried | None:
    if output is None:
        return None
    named = {one.name for one in inputs}
    others = [name for name in inspect.signature(network.forward).parameters if name not in named]
    if len(others) == 1:
        return Carried(others[0], output)
    raise UserError(
        ErrorKind.argument,
        f"The network returns a state that is carried by hand, and takes {', '.join(others) or 'nothing'} beside its "
        "inputs: one argument of `forward` must take the state.",
    )


def _move_weights(module: nn.Module, seed: int) -> None:
    """Each parameter by a fifth of its size, and zeros away from zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.is_floating_point():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            size = max(float(parameter.square().mean().sqrt()), 0.3)
            parameter.add_(0.2 * size * noise.to(parameter.dtype))


def _differs(trial: _Trial) -> UserError:
    modules = ", ".join(list(trial.lifted.lifted)[:4])
    return UserError(
        ErrorKind.argument,
        f"What stands for {modules} computes something else than the network itself: one of these modules is a variant "
        "of upstream's that is not supported, or its state is changed, or passed on, by code of the network's own.",
    )
