"""Completions of one replica: a request becomes a sequence of its batcher, and what that says becomes the answer."""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import AsyncIterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..runtime import Session
from ..runtime.generation import begun
from ..runtime.tokenizers import Tokenizer
from ..serving import Batcher, BatcherThread, Busy, Completion, Sequence
from .conversations import Conversations
from .openai import Answer, CompletionRequest, RequestError, refusal, usage


@dataclass
class Counts:
    """Of requests that have ended, whichever way."""

    prompt_tokens: int = 0
    new_tokens: int = 0


class LanguageModel:
    """Answers completions, in one event loop. Close it after use.

    Args:
        name: what requests call the model.
        session: its rows are the slots.
        tokenizer: of the model.
        queue: how many requests may wait for a slot.
        conversations: where states are kept.
    """

    def __init__(self, name: str, session: Session, tokenizer: Tokenizer, queue: int, conversations: Conversations):
        self.name, self.counts = name, Counts()
        self.batcher = Batcher(session, queue)
        self._manifest, self._tokenizer, self._conversations = session.manifest, tokenizer, conversations
        self._thread = BatcherThread(self.batcher)

    @property
    def is_alive(self) -> bool:
        """Whether it can answer."""
        return self._thread.is_alive

    def close(self) -> None:
        """Fail what runs, and free everything."""
        self._thread.close()

    async def complete(self, request: CompletionRequest) -> dict[str, Any]:
        """The whole answer. A caller that is cancelled ends the sequence.

        Raises:
            RequestError: what it is answered with instead.
        """
        running = await self._start(request)
        text = str(request.prompt) if request.echo else ""
        try:
            async for piece in running.pieces():
                text += piece
            state = await self._kept(request, running)
        finally:
            self._end(running)
        return Answer(self.name).body(text, running.task.finish, running.usage, state)

    async def stream(self, request: CompletionRequest) -> AsyncIterator[bytes]:
        """The answer as events. What is wrong with the request is raised here; what goes wrong later is an event.

        A caller that closes the iterator ends the sequence.

        Raises:
            RequestError: what it is answered with instead.
        """
        running = await self._start(request)
        events = self._events(request, running)
        weakref.finalize(events, running.sequence.close)  # a client may be gone before the first is asked for
        return events

    async def _events(self, request: CompletionRequest, running: _Running) -> AsyncIterator[bytes]:
        answer = Answer(self.name)
        try:
            if request.echo:
                yield _event(answer.body(str(request.prompt)))
            async for piece in running.pieces():
                yield _event(answer.body(piece))
            state = await self._kept(request, running)
            yield _event(answer.body("", running.task.finish, state=state))
            if request.include_usage:
                yield _event(answer.body("", usage=running.usage) | {"choices": []})
        except RequestError as error:
            yield _event(error.body())
        finally:
            self._end(running)
        yield b"data: [DONE]\n\n"

    async def _start(self, request: CompletionRequest) -> _Running:
        if request.model != self.name:
            raise RequestError(404, f"The model {request.model!r} does not exist.", "model", "model_not_found")
        state = None
        try:
            if request.state is not None:  # off the event loop: it may be large
                state = await asyncio.to_thread(self._conversations.load, request.state)
            tokens = self._tokens(request)
            sequence = await asyncio.to_thread(self.batcher.open, state)
        except Busy as error:
            raise RequestError(429, str(error), code="rate_limit_exceeded") from None
        except UserError as error:
            raise refusal(error) from None
        running = _Running(sequence)
        running.task = Completion(
            tokens,
            self._tokenizer,
            request.max_tokens,
            request.sampling,
            stops=request.stops,
            ends=self._manifest.eos_token_ids,
            show=running.show,
            done=running.done,
            read_last=request.keep_state,
        )
        try:
            sequence.start(running.task)
        except UserError as error:
            sequence.close()
            raise refusal(error) from None
        return running

    def _tokens(self, request: CompletionRequest) -> SequenceOf[int]:
        prompt = request.prompt
        tokens: SequenceOf[int] = self._tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        if request.state is None:
            tokens = begun(tokens, self._manifest.bos_token_id)
        if not tokens:
            raise RequestError(400, "The prompt is empty: give at least one token to start from.", "prompt")
        return tokens

    async def _kept(self, request: CompletionRequest, running: _Running) -> str | None:
        """The name of the state that was saved, where that was asked for."""
        if not request.keep_state:
            return None
        try:
            state = await asyncio.wrap_future(running.sequence.save())
            return await asyncio.to_thread(self._conversations.save, state)
        except UserError as error:
            raise RequestError(500, str(error)) from None

    def _end(self, running: _Running) -> None:
        running.sequence.close()
        self.counts.prompt_tokens += len(running.task.tokens)
        self.counts.new_tokens += running.task.new_tokens


class _Running:
    """Carries what a sequence says from the batcher's thread to the event loop that it was made in."""

    task: Completion

    def __init__(self, sequence: Sequence):
        self.sequence = sequence
        self._loop = asyncio.get_running_loop()
        self._said: asyncio.Queue[str | UserError | None] = asyncio.Queue()

    def show(self, piece: str) -> None:
        """`Completion`'s pieces of text."""
        self._say(piece)

    def done(self, error: UserError | None) -> None:
        """`Completion`'s end."""
        self._say(error)

    def _say(self, what: str | UserError | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._said.put_nowait, what)
        except RuntimeError:  # the loop is closed: nobody listens
            self.sequence.close()

    async def pieces(self) -> AsyncIterator[str]:
        """The text, until it ends.

        Raises:
            RequestError: it failed.
        """
        while isinstance(said := await self._said.get(), str):
            yield said
        if said is not None:
            raise refusal(said)

    @property
    def usage(self) -> dict[str, int]:
        """The numbers of tokens, as they are answered."""
        return usage(len(self.task.tokens), self.task.new_tokens)


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()
