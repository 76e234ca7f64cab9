"""Generate tokens with a session: feed the prompt in chunks, then feed back what is drawn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

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

    def __str__(self) -> str:
        prompt, new = self.prompt_tokens / self.prompt_seconds, self.new_tokens / self.new_seconds
        return f"{self.prompt_tokens} prompt tokens at {prompt:,.0f}/s, {self.new_tokens} new at {new:,.0f}/s"


@dataclass
class Generation:
    """Iterate to get new tokens as they are drawn; `stats` tells how fast."""

    session: Session
    prompt: Sequence[int]
    max_new_tokens: int
    sampler: Sampler
    chunk: int | None = None
    """Positions of one pass of the prompt; None: as many as suit the session."""
    stats: GenerationStats = field(default_factory=GenerationStats)

    def __post_init__(self) -> None:
        manifest = self.session.manifest
        vocabulary = manifest.vocab_size
        if vocabulary is None or not manifest.gives_logits:
            raise UserError(
                ErrorKind.argument, "This bundle gives vectors, not logits: there are no tokens to generate from it."
            )
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
        for count in range(1, self.max_new_tokens + 1):
            start = time.perf_counter()
            token = self.sampler(logits)
            if count < self.max_new_tokens:
                logits = self._feed(token)
            self.stats.new_seconds += time.perf_counter() - start
            self.stats.new_tokens = count
            yield token

    def _feed(self, token: int) -> np.ndarray:
        return self.session.step(np.full((self.session.batch, 1), token, np.int64))[0, 0]


class TextGeneration:
    """Iterate, once, to get pieces of text as soon as they are complete; the session is closed at the end.

    Attributes:
        stats: how fast it went.
    """

    def __init__(self, generation: Generation, tokenizer: Tokenizer):
        self._generation, self._tokenizer = generation, tokenizer
        self.stats = generation.stats

    def __iter__(self) -> Iterator[str]:
        with self._generation.session:
            yield from self._tokenizer.decode_stream(self._generation)
