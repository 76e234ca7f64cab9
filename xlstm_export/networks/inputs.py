"""What a network is fed, as its user says it: `x=B,S,12:float32`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ..errors import ErrorKind, UserError

Axis = int | Literal["B", "S"]
BATCH: Literal["B"] = "B"
TIME: Literal["S"] = "S"
DTYPES = {"float32": torch.float32, "int64": torch.int64, "int32": torch.int32}


@dataclass(frozen=True)
class NetworkInput:
    """One argument of a network's `forward`: its axes are the batch (B), time (S), or of a fixed size."""

    name: str
    axes: tuple[Axis, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        sizes = [axis for axis in self.axes if isinstance(axis, int)]
        if self.axes[:1] != (BATCH,) or self.axes.count(BATCH) != 1 or self.axes.count(TIME) > 1:
            self._fail("its axes begin with B, the batch, and hold S, the time, at most once")
        if any(size < 1 for size in sizes):
            self._fail("a size is 1 or more")
        if self.dtype not in DTYPES:
            self._fail(f"its dtype is one of {', '.join(DTYPES)}")

    def _fail(self, what: str) -> None:
        raise UserError(ErrorKind.argument, f"input {self}: {what}. An example: x=B,S,12:float32")

    def __str__(self) -> str:
        return f"{self.name}={','.join(map(str, self.axes))}:{self.dtype}"

    @property
    def time_axis(self) -> int | None:
        return self.axes.index(TIME) if TIME in self.axes else None

    def shape(self, batch: int, positions: int) -> tuple[int, ...]:
        named = {BATCH: batch, TIME: positions}
        return tuple(axis if isinstance(axis, int) else named[axis] for axis in self.axes)

    def random(self, batch: int, positions: int, generator: torch.Generator, largest: int) -> torch.Tensor:
        """Normal values, or integers below `largest`."""
        shape = self.shape(batch, positions)
        if self.dtype == "float32":
            return torch.randn(shape, generator=generator)
        return torch.randint(largest, shape, generator=generator, dtype=DTYPES[self.dtype])


def largest_integer(network: nn.Module) -> int:
    """What random integers are drawn below: all of the network's tables have such a row."""
    return min((m.num_embeddings for m in network.modules() if isinstance(m, nn.Embedding)), default=2)


def parse_input(text: str) -> NetworkInput:
    """`x=B,S,12:float32`, or `x=B,S,12`.

    Raises:
        UserError: it is not of that form.
    """
    match = re.fullmatch(r"(?P<name>\w+)=(?P<axes>[BS\d,\s]+)(?::(?P<dtype>\w+))?", text.strip())
    if not match:
        raise UserError(
            ErrorKind.argument,
            f"--input {text}: expected NAME=AXES:DTYPE, such as x=B,S,12:float32, where B is the batch, S the time, "
            "and numbers are fixed sizes.",
        )
    axes = [part.strip() for part in match["axes"].split(",")]
    if any(not re.fullmatch(r"B|S|\d{1,9}", axis) for axis in axes):
        raise UserError(ErrorKind.argument, f"--input {text}: an axis is B, S or a number.")
    named: dict[str, Axis] = {"B": BATCH, "S": TIME}
    sizes = tuple(named[axis] if axis in named else int(axis) for axis in axes)
    return NetworkInput(match["name"], sizes, match["dtype"] or "float32")


def parse_inputs(described: Mapping[str, str] | Sequence[str]) -> tuple[NetworkInput, ...]:
    """Of `{"x": "B,S,12:float32"}` or `["x=B,S,12:float32"]`.

    Raises:
        UserError: one is not of that form, two have one name, or there is none.
    """
    texts = [f"{name}={axes}" for name, axes in described.items()] if isinstance(described, Mapping) else described
    inputs = tuple(map(parse_input, texts))
    names = [one.name for one in inputs]
    if not inputs:
        raise UserError(ErrorKind.argument, "A network needs at least one input: --input x=B,S,12:float32")
    if len({*names}) != len(names):
        raise UserError(ErrorKind.argument, f"Two inputs have one name: {', '.join(names)}.")
    return inputs


def pieces_of(
    inputs: Sequence[NetworkInput], values: Sequence[torch.Tensor], lengths: Sequence[int]
) -> Iterator[list[torch.Tensor]]:
    """Values cut along time into pieces of so many positions; what has no time is in every piece."""
    at = 0
    for length in lengths:
        yield [
            value if one.time_axis is None else value.narrow(one.time_axis, at, length)
            for one, value in zip(inputs, values, strict=True)
        ]
        at += length
