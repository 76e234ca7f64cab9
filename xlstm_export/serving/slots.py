"""The rows of a session as slots that sequences come to and leave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..bundle.state_file import decode_states, encode_states
from ..errors import ErrorKind, UserError
from ..runtime import Session
from ..runtime.checks import checked_states


class Slot:
    """One sequence's place in the session. Its row changes as others come, go and are arranged.

    Attributes:
        row: where its states are now.
    """

    __slots__ = ("row",)

    def __init__(self, row: int):
        self.row = row


class SlotPool:
    """The slots of a session; those that are taken are its first rows.

    Attributes:
        session: whose rows they are. Nobody else runs it.

    Raises:
        UserError: a bundle, or an engine, whose passes need more than one row: what is idle would be computed too.
    """

    def __init__(self, session: Session):
        if session.fewest_rows > 1:
            raise UserError(
                ErrorKind.argument,
                f"Each pass of {session.bundle.path} runs {session.fewest_rows} sequences or more, and serving runs as "
                "many as have something to do. Export it with --batch dynamic, its engine with --batch 1:OPT:MAX.",
            )
        self.session = session
        self._taken: list[Slot] = []

    @property
    def size(self) -> int:
        """The number of slots."""
        return self.session.batch

    @property
    def taken(self) -> int:
        """The number of slots that are taken."""
        return len(self._taken)

    def acquire(self) -> Slot | None:
        """A slot with zero states; None: all are taken."""
        if self.taken == self.size:
            return None
        slot = Slot(self.taken)
        self.session.reset(slot.row)
        self._taken.append(slot)
        return slot

    def release(self, slot: Slot) -> None:
        """Give a slot back. The last row that is taken fills the gap."""
        last = self._taken.pop()
        if last is not slot:
            self.session.copy_row(last.row, slot.row)
            self._put(last, slot.row)

    def arrange(self, groups: Sequence[Sequence[Slot]]) -> list[range]:
        """Bring slots together, so that each group lies in rows that follow each other, from row 0 on.

        Rows are exchanged as seldom as that needs; a group that lies there already is not touched.

        Returns:
            The rows of each group, in the order of the groups; within one, slots may lie in any order.
        """
        rows, start = [], 0
        for group in groups:
            here = range(start, start + len(group))
            members = {*group}
            strangers = [row for row in here if self._taken[row] not in members]
            for slot in group:
                if slot.row not in here:
                    self._swap(slot.row, strangers.pop())
            rows.append(here)
            start = here.stop
        return rows

    def save(self, slot: Slot) -> bytes:
        """The states of one sequence: a saved state (FORMAT.md) of batch 1.

        Raises:
            UserError: a pass failed and left none.
        """
        return encode_states(self.session.bundle, 1, self.session.read_states(slot.row))

    def decode(self, data: bytes, where: str = "the saved state") -> dict[str, np.ndarray]:
        """What `save` gave, here or in another process, or a file of `Session.save` with a batch of 1, for `restore`.

        May be called beside everything else.

        Raises:
            UserError: it is damaged, or of another model.
        """
        bundle = self.session.bundle
        return checked_states(bundle.manifest, 1, decode_states(bundle, 1, data, where), ErrorKind.state)

    def restore(self, slot: Slot, states: dict[str, np.ndarray]) -> None:
        """Set the states of one sequence, bit for bit."""
        self.session.write_states(states, slot.row)

    def _swap(self, one: int, other: int) -> None:
        self.session.swap_rows(one, other)
        first, second = self._taken[one], self._taken[other]
        self._put(first, other)
        self._put(second, one)

    def _put(self, slot: Slot, row: int) -> None:
        slot.row = row
        self._taken[row] = slot
