"""Continuous batching: sequences that come and go share the passes of one session.

    batcher = Batcher(session)                      # a session of N rows is a pool of N slots
    sequence = batcher.open()                       # or open(state): goes on where `save` left off; Busy: all is full
    sequence.start(task)                            # tokens to read, and what becomes of the logits after them
    while batcher.pump(): ...                       # or `BatcherThread(batcher)`, which does it
    state = sequence.save()                         # a future of bytes: a saved state of batch 1
    sequence.close()

A sequence keeps its slot, and its states, from task to task until it is closed. Whoever runs `pump` runs the session
and calls the tasks; everything else may be called from any thread.

What a sequence computes does not depend on what else is in its passes, up to rounding: rows share matrix products, and
a product over another number of rows, or a prompt cut elsewhere, may add up in another order. So logits are equal
within float rounding, not bit for bit, and tokens equal unless two of them are as likely within that rounding.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from ..errors import ErrorKind, UserError
from ..runtime import Session
from ..runtime.generation import require_logits
from .planning import group, share_out
from .slots import Slot, SlotPool

_log = logging.getLogger(__name__)


class Busy(UserError):
    """No slot is free, and as many sequences wait for one as may."""


class Task(ABC):
    """What a sequence does next. Called by whoever pumps: be quick, and block on nothing.

    Attributes:
        tokens: to read, 1 or more.
    """

    tokens: SequenceOf[int]

    @abstractmethod
    def follow(self, logits: np.ndarray) -> int | None:
        """All tokens are read. Given logits (V) float32, valid during the call: the token to read next; None: done."""

    @abstractmethod
    def end(self, error: UserError | None) -> None:
        """The task is over: done, cancelled, or failed, with the error. Called exactly once."""


@dataclass
class BatcherStats:
    """Counted since the beginning."""

    passes: int = 0
    positions: int = 0
    """That passes computed, padding included."""
    tokens: int = 0
    """That were read: of prompts, and such as were drawn."""
    failed_passes: int = 0
    most_waiting: int = 0


class Sequence:
    """One sequence of a batcher, from `Batcher.open`. May be used from any thread."""

    def __init__(self, batcher: Batcher, states: dict[str, np.ndarray] | None):
        self._batcher, self._initial = batcher, states
        # The rest belongs to whoever pumps.
        self._slot: Slot | None = None
        self._task: Task | None = None
        self._unread = np.zeros(0, np.int64)
        self._saves: list[Future[bytes]] = []
        self._is_closed = False

    def start(self, task: Task) -> None:
        """Have a task done, now or as soon as there is a slot. One at a time: its `end` comes before the next `start`.

        Raises:
            UserError: tokens that the model has not. What goes wrong later is given to `Task.end`.
        """
        tokens, vocabulary = np.array(task.tokens, np.int64), self._batcher.vocabulary
        if tokens.ndim != 1 or not tokens.size:
            raise UserError(ErrorKind.argument, "There is nothing to read: give at least one token.")
        if tokens.min() < 0 or tokens.max() >= vocabulary:
            wrong = tokens[(tokens < 0) | (tokens >= vocabulary)][0]
            raise UserError(ErrorKind.argument, f"token {wrong} is not in the vocabulary of {vocabulary}.")
        self._batcher._ask(lambda: self._start(task, tokens))

    def cancel(self) -> None:
        """End the running task, if there is one, after the current pass. The states are as they are then."""
        self._batcher._ask(lambda: self._end(None))

    def save(self) -> Future[bytes]:
        """The states after what was read so far, once there is a slot. A `UserError` in the future: they are lost."""
        future: Future[bytes] = Future()
        self._batcher._ask(lambda: self._saves.append(future))
        return future

    def close(self) -> None:
        """End the running task, and leave the slot to the next. Repeated calls do nothing."""
        self._batcher._ask(lambda: self._batcher._close(self))

    def _start(self, task: Task, tokens: np.ndarray) -> None:
        if self._is_closed or self._task is not None:
            why = "is closed" if self._is_closed else "is busy with another task, which has to end first"
            _tell_end(task, UserError(ErrorKind.argument, f"The sequence {why}."))
            return
        self._task, self._unread = task, tokens

    def _end(self, error: UserError | None) -> None:
        if (task := self._task) is not None:
            self._task, self._unread = None, self._unread[:0]
            _tell_end(task, error)

    def _follow(self, logits: np.ndarray) -> None:
        """Everything is read."""
        assert self._task is not None
        try:
            token = self._task.follow(logits)
        except Exception as error:  # what one task does wrong is no concern of the others
            self._end(
                error if isinstance(error, UserError) else UserError(ErrorKind.runtime, f"The task failed: {error}")
            )
            return
        if token is None:
            self._end(None)
        else:
            self._unread = np.array([token], np.int64)


def _tell_end(task: Task, error: UserError | None) -> None:
    try:
        task.end(error)
    except Exception:
        _log.exception("a task's `end` failed")


class Batcher:
    """Turns sequences with something to read into passes of one session.

    Args:
        session: of a language model with a dynamic batch. It belongs to the batcher, and is closed with it.
        queue: how many sequences may wait for a slot.

    Attributes:
        vocabulary: the number of tokens.
        pool: the slots.
        stats: for whoever measures.
        wake: called, from any thread, where there is something to pump.

    Raises:
        UserError: the bundle is of no language model, or its batch is fixed.
    """

    def __init__(self, session: Session, queue: int = 0):
        self.vocabulary = require_logits(session.manifest)
        self.pool, self.stats = SlotPool(session), BatcherStats()
        self.most_open = session.batch + queue
        self._session = session
        self._most_positions = 1 if session.manifest.mode == "step" else session.max_chunk
        self._lock = threading.Lock()
        self._asked: deque[Callable[[], None]] = deque()
        self._open = 0
        self._over: UserError | None = None
        self._waiting: deque[Sequence] = deque()
        self._seated: list[Sequence] = []
        self.wake: Callable[[], None] = lambda: None

    @property
    def open_sequences(self) -> int:
        """Those with a slot and those that wait for one."""
        return self._open

    @property
    def waiting(self) -> int:
        """How many sequences wait for a slot."""
        return len(self._waiting)

    def open(self, state: bytes | None = None) -> Sequence:
        """A new sequence. It takes a slot when there is one, in the order of opening, and keeps it until it is closed.

        Args:
            state: what `Sequence.save` gave, of this model; None: nothing was read yet.

        Raises:
            Busy: all slots are taken, and as many sequences wait as may.
            UserError: the state is damaged, or of another model; or the batcher is shut.
        """
        if self._over is not None:
            raise self._over
        sequence = Sequence(self, None if state is None else self.pool.decode(state))
        with self._lock:
            if self._open == self.most_open:
                raise Busy(
                    ErrorKind.unavailable,
                    f"All {self.pool.size} slots are taken, and {self._open - self.pool.size} sequences wait for one. "
                    "Try again later.",
                )
            self._open += 1
        self._ask(lambda: self._waiting.append(sequence))
        return sequence

    def pump(self) -> bool:
        """Do what was asked for, then one round of passes: every sequence with something to read is in one of them.

        Returns:
            Whether there is more to do.
        """
        self._answer()
        self._seat()
        for sequence in self._seated:
            self._save(sequence)
        ready = [sequence for sequence in self._seated if sequence._task is not None]
        if ready:
            self._run_round(ready)
        return bool(self._asked) or any(sequence._task is not None for sequence in self._seated)

    def shut(self, error: UserError) -> None:
        """End every task with this error, and close the session. Not beside `pump`; nothing is opened any more."""
        self._over = error
        self._answer()
        for sequence in [*self._seated, *self._waiting]:
            sequence._end(error)
            self._close(sequence)
        self._session.close()

    def _ask(self, what: Callable[[], None]) -> None:
        self._asked.append(what)
        self.wake()

    def _answer(self) -> None:
        while self._asked:
            self._asked.popleft()()

    def _seat(self) -> None:
        """Give slots to those that wait, in their order."""
        while self._waiting and (slot := self.pool.acquire()) is not None:
            sequence = self._waiting.popleft()
            sequence._slot = slot
            if sequence._initial is not None:
                self.pool.restore(slot, sequence._initial)
                sequence._initial = None
            self._seated.append(sequence)
        self.stats.most_waiting = max(self.stats.most_waiting, len(self._waiting))

    def _save(self, sequence: Sequence) -> None:
        saves, sequence._saves = sequence._saves, []
        for future in saves:
            try:
                if sequence._slot is None:
                    raise UserError(ErrorKind.argument, "The sequence was closed before it had a slot.")
                future.set_result(self.pool.save(sequence._slot))
            except UserError as error:
                future.set_exception(error)

    def _close(self, sequence: Sequence) -> None:
        if sequence._is_closed:
            return
        sequence._end(None)
        self._save(sequence)
        sequence._is_closed = True
        if sequence._slot is None:
            self._waiting.remove(sequence)
        else:
            self._seated.remove(sequence)
            self.pool.release(sequence._slot)
        with self._lock:
            self._open -= 1

    def _run_round(self, ready: list[Sequence]) -> None:
        positions = share_out([len(sequence._unread) for sequence in ready], self._most_positions)
        groups = group(positions)
        ranges = self.pool.arrange([[_slot_of(ready[index]) for index in members] for members in groups])
        for members, rows in zip(groups, ranges, strict=True):
            lengths = {_slot_of(ready[index]).row: positions[index] for index in members}
            sequences = {_slot_of(ready[index]).row: ready[index] for index in members}
            self._run([sequences[row] for row in rows], [lengths[row] for row in rows], rows)

    def _run(self, sequences: list[Sequence], lengths: list[int], rows: range) -> None:
        """A pass over sequences in these rows, so many positions of each."""
        tokens = np.zeros((len(rows), max(lengths)), np.int64)
        for row, sequence, length in zip(tokens, sequences, lengths, strict=True):
            row[:length] = sequence._unread[:length]
        self.stats.passes += 1
        self.stats.positions += tokens.size
        try:
            given = None if self._session.manifest.lengths is None else np.array(lengths)
            logits = self._session.feed(tokens, given, rows)
        except Exception as error:  # whatever a runtime raises, the others go on
            self._run_apart(sequences, lengths, rows, error)
            return
        self.stats.tokens += sum(lengths)
        for sequence, length, row in zip(sequences, lengths, logits, strict=True):
            sequence._unread = sequence._unread[length:]
            if not sequence._unread.size:
                sequence._follow(row[length - 1 if len(row) > 1 else 0])

    def _run_apart(self, sequences: list[Sequence], lengths: list[int], rows: range, error: Exception) -> None:
        """A pass has failed. Sequences whose states it spoilt are lost; the others are run again, by halves: one alone
        may be to blame, or a smaller pass may find the memory that the whole one lacked."""
        self.stats.failed_passes += 1
        if not isinstance(error, UserError):
            error = UserError(ErrorKind.runtime, f"A pass failed: {error}")
        lost = [sequence for sequence, row in zip(sequences, rows, strict=True) if self._session.is_spoilt(row)]
        for sequence in lost:
            sequence._end(error)
            sequence.close()
        if lost:
            return
        if len(rows) == 1:
            sequences[0]._end(error)
            return
        half = len(rows) // 2
        self._run(sequences[:half], lengths[:half], rows[:half])
        self._run(sequences[half:], lengths[half:], rows[half:])


def _slot_of(sequence: Sequence) -> Slot:
    assert sequence._slot is not None
    return sequence._slot
