"""Text from a sequence: a prompt is read, tokens are drawn until one of several ends, and text comes out in pieces."""

from __future__ import annotations

from collections.abc import Callable, Collection
from collections.abc import Sequence as SequenceOf
from typing import Literal

import numpy as np

from ..errors import UserError
from ..runtime.generation import StopTexts
from ..runtime.sampling import Sampler, Sampling
from ..runtime.tokenizers import TextOfTokens, Tokenizer
from .batcher import Task

Finish = Literal["stop", "length"]
"""Why a text ended: the model or a stop text ended it, or it has as many tokens as were asked for."""


class Completion(Task):
    """Continues a prompt.

    Args:
        tokens: the prompt, 1 or more tokens.
        tokenizer: what makes text of tokens.
        most: new tokens.
        sampling: how they are drawn.
        stops: texts, of which the first to appear ends the text before it.
        ends: tokens that end the text, and are not part of it.
        show: given pieces of text as soon as they are complete, none of them empty.
        done: called at the end, with the error where there is one; `finish` is None then, as when it was cancelled.
        read_last: whether the last token drawn is read too, so that the states hold everything that was drawn.

    Attributes:
        new_tokens: how many were drawn, one that ends the text included.
        finish: why the text ended; None: it has not.
    """

    def __init__(
        self,
        tokens: SequenceOf[int],
        tokenizer: Tokenizer,
        most: int,
        sampling: Sampling,
        *,
        stops: SequenceOf[str] = (),
        ends: Collection[int] = (),
        show: Callable[[str], None],
        done: Callable[[UserError | None], None],
        read_last: bool = False,
    ):
        self.tokens, self.new_tokens = tokens, 0
        self.finish: Finish | None = None
        self._most, self._ends, self._show, self._done, self._read_last = most, ends, show, done, read_last
        self._sampler, self._stops = Sampler(sampling), StopTexts(stops)
        self._text = TextOfTokens(tokenizer, tokens)

    def follow(self, logits: np.ndarray) -> int | None:
        """`Task.follow`."""
        if self.finish is not None:
            return None  # what was read last
        token = self._sampler(logits)
        self.new_tokens += 1
        if token in self._ends:
            self.finish = "stop"
            self._give(self._stops.add(self._text.rest()))
        else:
            self._give(self._stops.add(self._text.add(token)))
            if not self._stops.is_reached and self.new_tokens == self._most:
                self.finish = "length"
                self._give(self._stops.add(self._text.rest()))
        if self._stops.is_reached:
            self.finish = "stop"
        elif self.finish is not None:
            self._give(self._stops.rest())
        return token if self.finish is None or self._read_last else None

    def end(self, error: UserError | None) -> None:
        """`Task.end`."""
        self._done(error)

    def _give(self, piece: str) -> None:
        if piece:
            self._show(piece)
