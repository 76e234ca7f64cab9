"""The states of a session's rows in memory, so that a pass can run on some of the rows where they lie.

The batch is every state's first axis: a range of rows is a range of bytes. A state has two buffers, which are input and
output of a pass by turns, or one where a kernel updates it in place. Every row has a turn of its own: after a pass, the
rows that ran lie in the other buffer than those that did not. Before a pass its rows are brought to one turn by copying
those in the minority; rows that run together are never copied.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..bundle import Manifest
from ..bundle.dtypes import DTYPES
from ..bundle.manifest import StateTensor
from ..errors import ErrorKind, UserError

ALIGNMENT = 256
"""Bytes: what every tensor starts at; TensorRT asks for it."""


class Memory(Protocol):
    """One allocation, of a device or of the host. What was asked of it is done once `synchronize` returns."""

    address: int

    def zero(self, offset: int, size: int) -> None: ...
    def upload(self, offset: int, array: np.ndarray) -> None: ...
    def download(self, offset: int, array: np.ndarray) -> None: ...
    def copy(self, source: int, target: int, size: int) -> None: ...
    def synchronize(self) -> None: ...


class HostMemory:
    """`Memory` that the CPU computes in."""

    def __init__(self, size: int):
        self._bytes = np.zeros(size + ALIGNMENT, np.uint8)
        self.address = aligned(self._bytes.ctypes.data)

    def zero(self, offset: int, size: int) -> None:
        ctypes.memset(self.address + offset, 0, size)

    def upload(self, offset: int, array: np.ndarray) -> None:
        ctypes.memmove(self.address + offset, array.ctypes.data, array.nbytes)

    def download(self, offset: int, array: np.ndarray) -> None:
        ctypes.memmove(array.ctypes.data, self.address + offset, array.nbytes)

    def copy(self, source: int, target: int, size: int) -> None:
        ctypes.memmove(self.address + target, self.address + source, size)

    def synchronize(self) -> None:
        """Everything is done already."""


@dataclass(frozen=True)
class _Place:
    """Where one state lies in the memory: offsets in bytes."""

    state: StateTensor
    row_bytes: int
    buffers: tuple[int, int]
    """By turn; the same twice where it is updated in place."""
    staged: tuple[int, int] | None
    """What a pass reads and writes instead where a row need not be aligned; None: every row is."""


class RowStates:
    """The states of `batch` rows, zeros at first.

    Args:
        manifest, batch: which states, of how many rows.
        allocate: makes the memory, of so many bytes.
        in_place: the names of the states that a pass updates in place, and spoils when it fails.
        row_alignment: bytes, a power of 2: what a pass needs the address of its first row to be a multiple of. Small
            states whose rows are not go through aligned copies.
    """

    def __init__(
        self,
        manifest: Manifest,
        batch: int,
        allocate: Callable[[int], Memory],
        in_place: Collection[str] = (),
        row_alignment: int = 1,
    ):
        self.batch, self._row_alignment = batch, row_alignment
        self._turns, self._spoilt = bytearray(batch), bytearray(batch)
        self._updates_in_place = bool(in_place)
        self._places, end = [], 0
        for state in manifest.states:
            row = nbytes(state.sized(1), state.dtype)
            several = 1 if state.input in in_place else 2
            offsets, size = lay_out([row * batch] * (several if row % row_alignment == 0 else 2 * several))
            buffers, staged = ([end + offset for offset in part] for part in (offsets[:several], offsets[several:]))
            place = _Place(state, row, (buffers[0], buffers[-1]), (staged[0], staged[-1]) if staged else None)
            self._places.append(place)
            end += size
        self._spare = end  # room for one row of any state
        self.memory = allocate(end + max([ALIGNMENT, *(place.row_bytes for place in self._places)]))
        self.memory.zero(0, end)
        self.memory.synchronize()

    def begin(self, rows: range) -> int:
        """Make ready for a pass over these rows; returns the turn that all of them have now. `finish` follows, unless
        the pass fails.

        Raises:
            UserError: an earlier pass spoilt the states of one of them.
        """
        self.require(rows)
        turns = self._turns[rows.start : rows.stop]
        turn = int(2 * turns.count(1) > len(turns))
        if 0 < turns.count(1) < len(turns):
            for row, other in zip(rows, turns, strict=True):
                if other != turn:
                    self._turn(row)
        if staged := self._staged(rows):
            for place, (before, _) in staged:
                offset = rows.start * place.row_bytes
                self.memory.copy(place.buffers[turn] + offset, before, len(rows) * place.row_bytes)
            self.memory.synchronize()  # passes have streams of their own
        if self._updates_in_place:
            self._spoilt[rows.start : rows.stop] = b"\1" * len(rows)  # unless it goes well
        return turn

    def finish(self, rows: range, turn: int) -> None:
        """The pass has run: what it wrote are the states now."""
        if staged := self._staged(rows):
            for place, (_, after) in staged:
                offset = rows.start * place.row_bytes
                self.memory.copy(after, place.buffers[1 - turn] + offset, len(rows) * place.row_bytes)
            self.memory.synchronize()
        self._turns[rows.start : rows.stop] = bytes((1 - turn,)) * len(rows)
        if self._updates_in_place:
            self._spoilt[rows.start : rows.stop] = bytes(len(rows))

    def addresses(self, rows: range, turn: int) -> list[tuple[int, int]]:
        """Of each state, in the manifest's order: where a pass over these rows reads it, and where it writes it."""
        base, offsets = self.memory.address, []
        for place in self._places:
            offset = rows.start * place.row_bytes
            offsets.append((place.buffers[turn] + offset, place.buffers[1 - turn] + offset))
            if place.staged is not None and offset % self._row_alignment:
                offsets[-1] = place.staged
        return [(base + before, base + after) for before, after in offsets]

    def _staged(self, rows: range) -> list[tuple[_Place, tuple[int, int]]]:
        """The states that a pass over these rows finds in their aligned copies."""
        if rows.start == 0:
            return []
        places = ((place, place.staged) for place in self._places)
        return [(p, staged) for p, staged in places if staged and rows.start * p.row_bytes % self._row_alignment]

    def _turn(self, row: int) -> None:
        """Move one row's states into their other buffers."""
        turn = self._turns[row]
        for place in self._places:
            offset = row * place.row_bytes
            if place.buffers[0] != place.buffers[1]:
                self.memory.copy(place.buffers[turn] + offset, place.buffers[1 - turn] + offset, place.row_bytes)
        self.memory.synchronize()
        self._turns[row] = 1 - turn

    def is_spoilt(self, row: int) -> bool:
        """Whether a pass failed while it updated the row in place."""
        return bool(self._spoilt[row])

    def require(self, rows: range) -> None:
        """
        Raises:
            UserError: a pass spoilt the states of one of the rows.
        """
        if self._updates_in_place and 1 in self._spoilt[rows.start : rows.stop]:
            raise UserError(
                ErrorKind.runtime,
                "The states are lost: a pass failed while it updated them in place. Reset the session, or load a saved "
                "state.",
            )

    def read(self, rows: range) -> dict[str, np.ndarray]:
        """A copy by name, (rows, ...), in the dtypes that they are stored in."""
        arrays = {p.state.input: np.empty(p.state.sized(len(rows)), DTYPES[p.state.dtype]) for p in self._places}
        for place, array in zip(self._places, arrays.values(), strict=True):
            for part, offset in self._parts(place, rows):
                self.memory.download(offset, array[part.start - rows.start : part.stop - rows.start])
        self.memory.synchronize()
        return arrays

    def write(self, rows: range, states: Mapping[str, np.ndarray]) -> None:
        """Set these rows from what `read` gave."""
        for place in self._places:
            array = states[place.state.input]
            for part, offset in self._parts(place, rows):
                self.memory.upload(offset, array[part.start - rows.start : part.stop - rows.start])
        self.memory.synchronize()
        self._spoilt[rows.start : rows.stop] = bytes(len(rows))

    def reset(self, rows: range) -> None:
        """Set these rows to zeros."""
        for place in self._places:
            for part, offset in self._parts(place, rows):
                self.memory.zero(offset, len(part) * place.row_bytes)
        self.memory.synchronize()
        self._spoilt[rows.start : rows.stop] = bytes(len(rows))

    def copy(self, source: int, target: int) -> None:
        """Give row `target` the states of row `source`."""
        for place in self._places:
            buffer = place.buffers[self._turns[source]]
            self.memory.copy(buffer + source * place.row_bytes, buffer + target * place.row_bytes, place.row_bytes)
        self.memory.synchronize()
        self._turns[target], self._spoilt[target] = self._turns[source], self._spoilt[source]

    def swap(self, one: int, other: int) -> None:
        """Exchange the states of two rows."""
        for place in self._places:
            here, there = (place.buffers[self._turns[row]] + row * place.row_bytes for row in (one, other))
            # Each row takes over the other's turn, so its place is in the buffer that the other lies in.
            here_then = place.buffers[self._turns[other]] + one * place.row_bytes
            there_then = place.buffers[self._turns[one]] + other * place.row_bytes
            for source, target in ((here, self._spare), (there, here_then), (self._spare, there_then)):
                self.memory.copy(source, target, place.row_bytes)
        self.memory.synchronize()
        for flags in (self._turns, self._spoilt):
            flags[one], flags[other] = flags[other], flags[one]

    def _parts(self, place: _Place, rows: range) -> Iterator[tuple[range, int]]:
        """The rows in runs of one turn, and where each begins."""
        start = rows.start
        for row in rows:
            if row + 1 == rows.stop or self._turns[row + 1] != self._turns[row]:
                yield range(start, row + 1), place.buffers[self._turns[row]] + start * place.row_bytes
                start = row + 1


def lay_out(sizes: Iterable[int]) -> tuple[list[int], int]:
    """Offsets of tensors of these sizes one after the other, and the size of all."""
    offsets, total = [], 0
    for size in sizes:
        offsets.append(total)
        total += aligned(size)
    return offsets, total


def aligned(size: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def nbytes(shape: tuple[int, ...], dtype: str) -> int:
    """The bytes of a tensor."""
    return math.prod(shape) * DTYPES[dtype].itemsize
