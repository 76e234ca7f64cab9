"""Turns: everybody has one in every round, so that what disturbs the machine hits them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from .contender import Contender
from .job import Job

ROUNDS = 9
_TURN_SECONDS = 2.0
"""A turn ends early after this; a slow contender is timed in fewer steps."""
NOISY, TAKEN = 0.10, 0.05
"""Spread of the limit, and share of its time without a processor, beyond which nothing is concluded."""


@dataclass(frozen=True)
class Limit:
    """What the memory allowed, round for round: a pass over the weights, and one over the states of all rows."""

    weight_bytes: int
    state_bytes: int
    """One way."""
    read: tuple[float, ...]
    """Seconds of each round."""
    update: tuple[float, ...]
    taken: tuple[float, ...]
    """The share of each round's time for which other programs had the processors."""

    @property
    def rounds(self) -> np.ndarray:
        """Seconds of a step that does nothing but move its bytes."""
        return np.add(self.read, self.update)

    @property
    def seconds(self) -> float:
        return float(np.median(self.rounds))

    @property
    def spread(self) -> float:
        """From the 10th to the 90th percentile of the rounds, relative to their median."""
        low, high = np.percentile(self.rounds, (10, 90))
        return float((high - low) / self.seconds)

    @property
    def is_conclusive(self) -> bool:
        """Whether the machine was quiet: the stream took the same time in every round, and had the processors."""
        return self.spread <= NOISY and self.taken_share <= TAKEN

    @property
    def taken_share(self) -> float:
        return float(np.mean(self.taken))

    @property
    def read_bandwidth(self) -> float:
        """Bytes per second."""
        return self.weight_bytes / float(np.median(self.read))

    @property
    def update_bandwidth(self) -> float:
        """Bytes per second, both ways counted."""
        return 2 * self.state_bytes / float(np.median(self.update))


@dataclass(frozen=True)
class Timing:
    """Seconds of the steps of one contender, and the memory of its process."""

    name: str
    rounds: tuple[tuple[float, ...], ...]
    peak_bytes: int
    base_bytes: int
    """Of the interpreter, before the model's libraries and the model."""

    def percentile(self, percent: float) -> float:
        return float(np.percentile(np.concatenate(self.rounds), percent))

    @property
    def median(self) -> float:
        return self.percentile(50)

    @property
    def steps(self) -> int:
        return sum(map(len, self.rounds))

    def ratio(self, other: Sequence[float]) -> float:
        """How many times as long as `other` (seconds by round) a step takes: within each round, at their median."""
        return float(np.median([np.median(own) / value for own, value in zip(self.rounds, other, strict=True)]))

    @property
    def medians(self) -> list[float]:
        """Of each round."""
        return [float(np.median(own)) for own in self.rounds]


def take_turns(
    contenders: Sequence[Contender], memory: Contender, steps: int, tick: Callable[[int], None] = lambda _: None
) -> tuple[list[Timing], list[tuple[float, float, float]]]:
    """Time every contender in every round, and the memory; who begins changes from round to round.

    Args:
        contenders: what steps.
        memory: a process of kind `memory`.
        steps: of each contender, over all rounds.
        tick: called with 1 after each turn.

    Returns:
        The timings, and `MemoryStream.turn` of every round.
    """
    rounds = min(ROUNDS, steps)
    everybody: list[Contender] = [memory, *contenders]
    seconds: dict[Contender, list] = {contender: [] for contender in everybody}
    for turn in range(rounds):
        first = turn % len(everybody)
        for contender in everybody[first:] + everybody[:first]:
            if contender is memory:
                seconds[contender].append(tuple(contender.ask("stream")))
            else:
                own = steps * (turn + 1) // rounds - steps * turn // rounds
                seconds[contender].append(tuple(contender.ask("turn", steps=own, seconds=_TURN_SECONDS)))
            tick(1)
    timings = []
    for contender in contenders:
        peak, base = contender.ask("memory")
        timings.append(Timing(contender.name, tuple(seconds[contender]), peak, base))
    return timings, seconds[memory]


def start(stack: ExitStack, jobs: Sequence[tuple[str, Job]], threads: int | None) -> list[Contender]:
    """Start processes that end with the stack."""
    return [stack.enter_context(Contender(name, job, threads)) for name, job in jobs]
