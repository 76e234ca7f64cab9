"""Text to token ids and back: bytes, or a Hugging Face tokenizer that travels in the bundle."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from ..bundle import Bundle
from ..bundle.manifest import BYTE_TOKENIZER
from ..errors import ErrorKind, UserError

_CONTEXT = 8
"""Tokens before a piece of text that may change how it is written."""


class Tokenizer(Protocol):
    """Encodes a text whole; decodes a stream token by token."""

    def encode(self, text: str) -> list[int]: ...

    def decode_stream(self, tokens: Iterable[int], after: Sequence[int] = ()) -> Iterator[str]:
        """Pieces of text as soon as they are complete; every piece may be empty. `after`: tokens that stand before."""


class ByteTokenizer:
    """Token = byte of the UTF-8 text."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def decode_stream(self, tokens: Iterable[int], after: Sequence[int] = ()) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in tokens:
            yield decoder.decode(bytes([token]))
        yield decoder.decode(b"", final=True)


class HuggingFaceTokenizer:
    """A `tokenizer.json`, read by the `tokenizers` library."""

    def __init__(self, path: Path):
        from tokenizers import Tokenizer as Backend

        try:
            self._backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise UserError(
                ErrorKind.bundle, f"{path} is not a tokenizer that the tokenizers library reads: {error}"
            ) from None

    def encode(self, text: str) -> list[int]:
        return self._backend.encode(text).ids

    def decode_stream(self, tokens: Iterable[int], after: Sequence[int] = ()) -> Iterator[str]:
        # A token's text can depend on its neighbours (spaces, split characters), so text is decoded from some tokens
        # before the last point where it was complete, and held back while it ends inside a character.
        pending = list(after[-_CONTEXT:])
        shown = self._backend.decode(pending)
        for token in tokens:
            pending.append(token)
            text = self._backend.decode(pending)
            if text.endswith("\ufffd"):
                yield ""
                continue
            yield text[len(shown) :]
            shown = text
            if len(pending) > 64:
                pending = pending[-_CONTEXT:]
                shown = self._backend.decode(pending)
        yield self._backend.decode(pending)[len(shown) :]


def open_tokenizer(bundle: Bundle, file: Path | None = None) -> Tokenizer:
    """The tokenizer of a bundle, or a `tokenizer.json` that the user names instead.

    Raises:
        UserError: the bundle takes token ids only, or its tokenizer cannot be read.
    """
    if file is not None:
        return HuggingFaceTokenizer(file)
    tokenizer = bundle.manifest.tokenizer
    if tokenizer is None:
        raise UserError(
            ErrorKind.bundle,
            f"{bundle.path} has no tokenizer: its model takes token ids only. Give the model's tokenizer.json "
            "with --tokenizer, or put it beside the checkpoint and export again.",
        )
    return ByteTokenizer() if tokenizer == BYTE_TOKENIZER else HuggingFaceTokenizer(bundle.path / tokenizer)


class TextOfTokens:
    """The text of tokens that are added one by one.

    Args:
        before: the tokens that they follow, whose text is not given again.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()):
        self._added: deque[int] = deque()
        tokens = iter(lambda: self._added.popleft() if self._added else None, None)
        self._pieces = tokenizer.decode_stream(tokens, before)

    def add(self, token: int) -> str:
        """What is complete of the text now and was not before."""
        self._added.append(token)
        return next(self._pieces)

    def rest(self) -> str:
        """No token follows: what was left."""
        return "".join(self._pieces)
