"""A text as token streams, one a row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..bundle import Bundle
from ..bundle.manifest import BYTE_TOKENIZER
from ..errors import ErrorKind, UserError
from ..runtime.tokenizers import open_tokenizer


@dataclass(frozen=True)
class TextTokens:
    """Consecutive pieces of a text, a row each."""

    inputs: np.ndarray
    """(T, B) int64."""
    targets: np.ndarray
    """(T, B) int64: what follows each input."""
    bytes: int
    """Of UTF-8, of the text that the targets stand for."""

    @property
    def steps(self) -> int:
        return len(self.inputs)


def read_text(path: Path, bundle: Bundle, rows: int, steps: int) -> TextTokens:
    """The first rows * steps tokens of a text; fewer steps when it is shorter.

    Raises:
        UserError: the file cannot be read as UTF-8, is too short, or the bundle's model does not read text.
    """
    manifest = bundle.manifest
    if manifest.vocab_size is None:
        raise UserError(ErrorKind.argument, f"{bundle.path} is a block stack, which reads vectors: leave --text out.")
    if not manifest.gives_logits:
        raise UserError(
            ErrorKind.argument, f"{bundle.path} gives hidden states, which say nothing of a text: leave --text out."
        )
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(ErrorKind.argument, f"{path} cannot be read as UTF-8 text: {error}") from None
    tokenizer = open_tokenizer(bundle)
    # A token is at least one byte only for the byte tokenizer; elsewhere some ten characters a token are plenty.
    tokens = tokenizer.encode(text[: 16 * (rows * steps + 1)])
    steps = min(steps, (len(tokens) - 1) // rows)
    if steps < 1:
        raise UserError(ErrorKind.argument, f"{path} has {len(tokens)} tokens; {rows} rows need {rows + 1} at least.")
    used = tokens[: rows * steps + 1]
    if outside := [token for token in used if not 0 <= token < manifest.vocab_size]:
        raise UserError(
            ErrorKind.bundle,
            f"the tokenizer of {bundle.path} gives token {outside[0]}, but the model has {manifest.vocab_size}: "
            "it is another model's tokenizer. Put the right tokenizer.json beside the checkpoint and export again.",
        )
    stream = np.array(used, np.int64)
    inputs, targets = (part.reshape(rows, steps).T for part in (stream[:-1], stream[1:]))
    size = rows * steps
    if manifest.tokenizer != BYTE_TOKENIZER:
        size = len("".join(tokenizer.decode_stream(used[1:])).encode())
    return TextTokens(inputs, targets, size)
