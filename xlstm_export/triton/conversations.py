"""Sequences as a server's clients see them: named, asked one thing after another, forgotten when they fall silent.

Knows nothing of Triton. All is done on one thread, the *clerk*, which reads a list of things to do: what comes from
outside is put there, and so is what the batcher's thread has to say.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from collections.abc import Sequence as SequenceOf
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import numpy as np

from ..errors import ErrorKind, UserError
from ..runtime.generation import begun
from ..runtime.sampling import Sampler, Sampling
from ..runtime.tokenizers import TextOfTokens, Tokenizer
from ..serving import Batcher, Sequence, Task

TICK_SECONDS = 1.0
"""How often it is looked whether a client has gone, or fallen silent."""


@dataclass(frozen=True)
class Ask:
    """One request of a conversation."""

    name: Hashable
    """Of the conversation."""
    start: bool
    """Begin anew, whatever was before."""
    end: bool
    """Forget it, once this is answered."""
    tokens: list[int] | None
    """To read."""
    text: str | None
    """To read, where there are no tokens."""
    restore: bytes | None
    """With `start`: a saved state to go on from."""
    new_tokens: int
    """To draw, and read, after that."""
    sampling: Sampling
    ignore_eos: bool
    """Go on where the model ends a text."""
    wants_state: bool
    """Whether the answer holds the states."""
    is_cancelled: Callable[[], bool]
    """Whether nobody waits for the answer any more."""
    answer: Callable[[Answer | UserError], None]
    """Called once."""


@dataclass
class Answer:
    """What became of a request."""

    logits: np.ndarray | None = None
    """(V) float32, after all that the sequence has read; None: nothing since a state was restored."""
    new_tokens: list[int] = field(default_factory=list)
    """Fewer than were asked for where the model ended the text; the token that does is not among them."""
    new_text: str = ""
    """Theirs. A character that is not whole yet comes with the next."""
    state: bytes | None = None
    """A saved state (FORMAT.md) of batch 1."""


class Conversations:
    """Conversations over the sequences of a batcher, which another thread pumps.

    Args:
        tokenizer: None: tokens only.
        bos: the token that every text begins with.
        ends: the tokens that end a text.
        idle_seconds: a conversation that is asked nothing for so long is forgotten.
    """

    def __init__(
        self,
        batcher: Batcher,
        tokenizer: Tokenizer | None,
        bos: int | None,
        ends: tuple[int, ...],
        idle_seconds: float,
    ):
        self.batcher, self.tokenizer, self.bos, self.ends = batcher, tokenizer, bos, ends
        self._idle_seconds = idle_seconds
        self._todo: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._open: dict[Hashable, _Conversation] = {}

    def ask(self, ask: Ask) -> None:
        """Have a request answered, after those of its conversation that came before. From any thread."""
        self.later(lambda: self._take(ask))

    def later(self, what: Callable[[], None]) -> None:
        """Have the clerk do something. From any thread."""
        self._todo.put(what)

    def close(self) -> None:
        """Have `run` return, once it has done what was asked before."""
        self._todo.put(None)

    def run(self) -> None:
        """The clerk's work, until `close`."""
        tick = time.monotonic() + TICK_SECONDS
        while True:
            try:
                what = self._todo.get(timeout=max(0, tick - time.monotonic()))
            except Empty:
                self._tick()
                tick = time.monotonic() + TICK_SECONDS
                continue
            if what is None:
                return
            what()

    def forget(self, name: Hashable) -> None:
        """A conversation is over."""
        self._open.pop(name, None)

    def _take(self, ask: Ask) -> None:
        if ask.name not in self._open:
            self._open[ask.name] = _Conversation(self, ask.name)
        self._open[ask.name].take(ask)

    def _tick(self) -> None:
        for conversation in [*self._open.values()]:
            conversation.look(self._idle_seconds)


class _Conversation:
    def __init__(self, owner: Conversations, name: Hashable):
        self._owner, self._name = owner, name
        self._queue: deque[Ask] = deque()
        self._asked: Ask | None = None
        self._heard = time.monotonic()
        self._sequence: Sequence | None = None
        self._logits: np.ndarray | None = None
        self._sampler = Sampler(Sampling())
        self._text: TextOfTokens | None = None

    def take(self, ask: Ask) -> None:
        """A request has come."""
        self._heard = time.monotonic()
        self._queue.append(ask)
        self._go_on()

    def look(self, idle_seconds: float) -> None:
        """Stop what nobody waits for, and end a conversation that has fallen silent."""
        if self._asked is None and time.monotonic() - self._heard > idle_seconds:
            self._close()
            self._go_on()
        elif self._asked is not None and self._sequence is not None and self._asked.is_cancelled():
            self._sequence.cancel()

    def _go_on(self) -> None:
        while self._asked is None and self._queue:
            self._asked = self._queue.popleft()
            try:
                self._begin(self._asked)
            except UserError as error:
                self._answer(error)
        if self._asked is None and self._sequence is None:
            self._owner.forget(self._name)

    def _begin(self, ask: Ask) -> None:
        if ask.start:
            self._close()
            self._sequence = self._owner.batcher.open(ask.restore)
        elif ask.restore is not None:
            raise UserError(ErrorKind.argument, "A saved state is restored at the start of a sequence only.")
        if self._sequence is None:
            raise UserError(
                ErrorKind.argument,
                f"The sequence {self._name} is not here: the model was started again since, or a request of it failed. "
                "Begin anew, or restore a saved state.",
            )
        if ask.start or ask.sampling != self._sampler.sampling:
            self._sampler = Sampler(ask.sampling)
        tokens, ends = self._tokens(ask), () if ask.ignore_eos else self._owner.ends
        drawn: list[int] = []
        if tokens:
            self._text = None
        elif ask.new_tokens:
            if self._logits is None:
                raise UserError(ErrorKind.argument, "There is nothing to go on from: give tokens or a text.")
            token = self._sampler(self._logits)
            drawn = [] if token in ends else [token]
            tokens = [*drawn]
        if self._text is None and self._owner.tokenizer is not None:
            self._text = TextOfTokens(self._owner.tokenizer, tokens if not drawn else ())
        reading = _Reading(tokens, drawn, ask.new_tokens, self._sampler, ends)
        reading.ended = lambda error: self._owner.later(lambda: self._read(reading, error))
        if tokens:
            self._sequence.start(reading)
        else:
            self._complete(reading)

    def _tokens(self, ask: Ask) -> SequenceOf[int]:
        tokens: SequenceOf[int] = ask.tokens or []
        if ask.tokens is None and ask.text is not None:
            if self._owner.tokenizer is None:
                raise UserError(ErrorKind.argument, "The model has no tokenizer: give tokens, not a text.")
            tokens = self._owner.tokenizer.encode(ask.text)
        return begun(tokens, self._owner.bos) if ask.start and ask.restore is None else tokens

    def _read(self, reading: _Reading, error: UserError | None) -> None:
        """The batcher is done with a task."""
        if error is None:
            self._logits = reading.logits if reading.logits is not None else self._logits
            self._complete(reading)
        else:
            self._close()  # the states lie somewhere in between
            self._answer(error)
        self._go_on()

    def _complete(self, reading: _Reading) -> None:
        """Everything is read: what is left is to answer."""
        ask, answer = self._asked, Answer(self._logits, reading.drawn)
        assert ask is not None and self._sequence is not None
        if self._text is not None:
            answer.new_text = "".join(map(self._text.add, reading.drawn))
            if ask.end or len(reading.drawn) < ask.new_tokens:
                answer.new_text += self._text.rest()
                self._text = None
        if not ask.wants_state:
            self._answer(answer)
            return

        def saved(future: Future[bytes]) -> None:
            self._owner.later(lambda: self._saved(future, answer))

        self._sequence.save().add_done_callback(saved)

    def _saved(self, future: Future[bytes], answer: Answer) -> None:
        try:
            answer.state = future.result()
        except UserError as error:
            self._close()
            self._answer(error)
        else:
            self._answer(answer)
        self._go_on()

    def _answer(self, answer: Answer | UserError) -> None:
        ask, self._asked = self._asked, None
        assert ask is not None
        if ask.end:
            self._close()
        ask.answer(answer)

    def _close(self) -> None:
        if self._sequence is not None:
            self._sequence.close()
        self._sequence, self._logits, self._text = None, None, None


class _Reading(Task):
    """Reads tokens, and such as it draws."""

    def __init__(self, tokens: SequenceOf[int], drawn: list[int], most: int, sampler: Sampler, ends: tuple[int, ...]):
        self.tokens, self.drawn = tokens, drawn
        self.logits: np.ndarray | None = None
        self.ended: Callable[[UserError | None], None] = lambda error: None
        self._most, self._sampler, self._ends = most, sampler, ends

    def follow(self, logits: np.ndarray) -> int | None:
        """`Task.follow`."""
        self.logits = logits.copy()
        if len(self.drawn) == self._most:
            return None
        token = self._sampler(logits)
        if token in self._ends:
            return None
        self.drawn.append(token)
        return token

    def end(self, error: UserError | None) -> None:
        """`Task.end`."""
        self.ended(error)
