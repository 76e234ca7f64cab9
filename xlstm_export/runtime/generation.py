"""Generate tokens with a session: feed the prompt in chunks, then feed back what is drawn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..bundle import Manifest
from ..errors import ErrorKind, UserError
from .sampling import Sampler
from .session import Session
from .tokenizers import Tokenizer


@dataclass
class GenerationStats:
    """Wall-clock seconds, filled in while generating."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    new_tokens: int = 0
    new_seconds: float = 0.0
    end: str = "the most tokens were reached"
    """Why it ended."""

    def __str__(self) -> str:
        prompt, new = self.prompt_tokens / self.prompt_seconds, self.new_tokens / self.new_seconds
        return (
            f"{self.prompt_tokens} prompt tokens at {prompt:,.0f}/s, {self.new_tokens} new at {new:,.0f}/s; {self.end}"
        )


def require_logits(manifest: Manifest) -> int:
    """The size of the vocabulary that tokens are drawn from.

    Raises:
        UserError: the bundle is of no language model, or gives vectors.
    """
    if manifest.vocab_size is None or not manifest.gives_logits:
        gives = "vectors" if manifest.is_single else ", ".join(tensor.name for tensor in manifest.outputs)
        raise UserError(
            ErrorKind.argument,
            f"This bundle gives {gives}, not logits of a language model: there are no tokens to generate from it.",
        )
    return manifest.vocab_size


def begun(tokens: Sequence[int], bos: int | None) -> Sequence[int]:
    """The tokens of a text from its beginning: `bos`, if there is one, is put first, unless it stands there."""
    return tokens if bos is None or list(tokens[:1]) == [bos] else [bos, *tokens]


@dataclass
class Generation:
    """Iterate to get new tokens as they are drawn; `stats` tells how fast. A token that ends the text is not given."""

    session: Session
    prompt: Sequence[int]
    """The token that every text of the model begins with is put first, unless it stands there."""
    max_new_tokens: int
    sampler: Sampler
    chunk: int | None = None
    """Positions of one pass of the prompt; None: as many as suit the session."""
    ignore_eos: bool = False
    """Go on where the model ends a text."""
    stats: GenerationStats = field(default_factory=GenerationStats)

    def __post_init__(self) -> None:
        manifest = self.session.manifest
        vocabulary = require_logits(manifest)
        self.prompt = begun(self.prompt, manifest.bos_token_id)
        if not self.prompt:
            raise UserError(ErrorKind.argument, "The prompt is empty: give at least one token to start from.")
        if bad := [t for t in self.prompt if not 0 <= t < vocabulary]:
            raise UserError(
                ErrorKind.argument, f"The prompt holds token {bad[0]}, beyond the model's vocabulary of {vocabulary}."
            )

    def __iter__(self) -> Iterator[int]:
        start = time.perf_counter()
        prompt = np.array(self.prompt)
        logits = self.session.prefill([prompt] * self.session.batch, self.chunk)[0, 0]
        self.stats.prompt_tokens = len(self.prompt)
        self.stats.prompt_seconds = time.perf_counter() - start
        ends = () if self.ignore_eos else self.session.manifest.eos_token_ids
        for count in range(1, self.max_new_tokens + 1):
            start = time.perf_counter()
            token = self.sampler(logits)
            self.stats.new_tokens = count
            if ended := token in ends:
                self.stats.end = "the model ended the text"
            elif count < self.max_new_tokens:
                logits = self._feed(token)
            self.stats.new_seconds += time.perf_counter() - start
            if ended:
                return
            yield token

    def _feed(self, token: int) -> np.ndarray:
        return self.session.step(np.full((self.session.batch, 1), token, np.int64))[0, 0]


class TextGeneration:
    """Iterate, once, to get pieces of text as soon as they are complete; the session is closed at the end.

    Attributes:
        stats: how fast it went, and why it ended.
    """

    def __init__(self, generation: Generation, tokenizer: Tokenizer, stops: Sequence[str] = ()):
        """`stops`: texts, of which the first to appear ends the text before it."""
        self._generation, self._tokenizer = generation, tokenizer
        self._stops = StopTexts(stops)
        self.stats = generation.stats

    def __iter__(self) -> Iterator[str]:
        with self._generation.session:
            for piece in self._tokenizer.decode_stream(self._generation, self._generation.prompt):
                yield self._stops.add(piece)
                if self._stops.is_reached:
                    self.stats.end = "a stop was reached"
                    return
            yield self._stops.rest()


class StopTexts:
    """Texts, of which the first to appear ends a text before it.

    Attributes:
        is_reached: whether one of them has appeared; nothing is added then.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops = tuple(stop for stop in stops if stop)
        self._held, self.is_reached = "", False

    def add(self, piece: str) -> str:
        """The text goes on with a piece: what of it may be shown. What may be the beginning of a stop is held back."""
        self._held += piece
        if found := [at for stop in self._stops if (at := self._held.find(stop)) >= 0]:
            self.is_reached = True
            return self._held[: min(found)]
        kept = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        shown, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return shown

    def rest(self) -> str:
        """The text has ended without a stop: what was held back."""
        return self._held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop` begins with."""
    return next(size for size in range(min(len(text), len(stop) - 1), -1, -1) if text.endswith(stop[:size]))
