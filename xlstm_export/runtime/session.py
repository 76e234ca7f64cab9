"""One interface to a bundle on any runtime: a session holds the state of B sequences and is fed one pass at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..bundle import Bundle, Manifest
from ..bundle.state_file import decode_states, encode_states, write_states
from ..errors import ErrorKind, UserError

DEFAULT_CHUNK = 256
"""Positions of one pass of a prompt: enough that weights are read from memory for hundreds of positions at once."""


def checked_pass(
    manifest: Manifest, batch: int, inputs: np.ndarray, lengths: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """What `Session.feed` is given, contiguous and in the graph's types: inputs (B, S) or (B, S, D), lengths (B) int32.

    Raises:
        ValueError: wrong shapes or lengths, lengths in mode `step`, or a token that is not in the vocabulary.
    """
    spec = manifest.input
    sequence = inputs.shape[1] if inputs.ndim > 1 and spec.shape[1] == "sequence" else 1
    if sequence < 1 or inputs.shape != (expected := spec.sized(batch, sequence)):
        raise ValueError(f"{spec.name} has shape {inputs.shape}, expected {expected if sequence else spec.shape}")
    if lengths is None:
        lengths = np.full(batch, sequence)
    if np.shape(lengths) != (batch,) or np.min(lengths) < 0 or np.max(lengths) > sequence:
        raise ValueError(f"lengths are {lengths}, expected {batch} numbers from 0 to {sequence}")
    if manifest.lengths is None and np.min(lengths) < 1:
        raise ValueError("a bundle of mode `step` has no idle rows. Export it with --mode both.")
    if manifest.vocab_size is not None:
        here = inputs[np.arange(sequence) < np.asarray(lengths)[:, None]]
        if len(wrong := here[(here < 0) | (here >= manifest.vocab_size)]):
            raise ValueError(f"token {wrong[0]} is not in the vocabulary of {manifest.vocab_size}")
    return np.ascontiguousarray(inputs, spec.dtype), np.ascontiguousarray(lengths, np.int32)


class Session(ABC):
    """The states of B sequences that advance together. Obtained from `open_session`; a context manager.

    Attributes:
        bundle: what is run.
        batch: number of sequences, B.
        max_chunk: the most positions of one pass; None: any number.
    """

    def __init__(self, bundle: Bundle, batch: int, max_chunk: int | None = None):
        self.bundle, self.batch, self.max_chunk = bundle, batch, max_chunk

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @abstractmethod
    def feed(self, inputs: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        """One pass over S positions, which advances the states.

        Args:
            inputs: tokens (B, S) int64, or vectors (B, S, D) float32 for a block stack. S is 1 in mode `step`.
            lengths: (B), how many positions of each row are there; the rest is padding, and a row of length 0 keeps its
                states. None: all of them.

        Returns:
            Logits (B, 1, V) at each row's last position, or (B, S, V) of a bundle exported with `--logits all`; outputs
            of a block stack likewise, with width D. Float32; those of padding mean nothing. The array belongs to the
            caller.
        """

    def step(self, inputs: np.ndarray) -> np.ndarray:
        """Feed one token a row, (B, 1) int64 (block stacks: (B, 1, D) float32), and advance the states.

        Returns logits (B, 1, V), or outputs (B, 1, D), float32. The array belongs to the caller.
        """
        if inputs.shape[:2] != (self.batch, 1):
            raise ValueError(f"{self.manifest.input.name} has shape {inputs.shape}, expected ({self.batch}, 1, ...)")
        return self.feed(inputs)

    def prefill(
        self, prompts: Sequence[np.ndarray], chunk: int | None = None, progress: Callable[[int], None] = lambda _: None
    ) -> np.ndarray:
        """Feed a prompt to each row, in passes of at most `chunk` positions. Memory does not grow with the prompts.

        Args:
            prompts: B arrays of tokens (T), or of vectors (T, D); T may differ, and 0 leaves a row as it is.
            chunk: None: 256, or what an engine was built for.
            progress: told of the positions of each pass.

        Returns:
            Logits (B, 1, V), or outputs (B, 1, D), after each row's own last position; zeros for an empty prompt.

        Raises:
            UserError: prompts of different lengths, and a bundle of mode `step`.
        """
        rows = self._check_prompts(prompts)
        lengths = np.array([len(row) for row in rows])
        outputs = np.zeros((self.batch, 1, self.manifest.output_width), np.float32)
        size = self._chunk(chunk, lengths)
        for start in range(0, lengths.max(), size):
            here = np.clip(lengths - start, 0, size)
            block = np.zeros((self.batch, here.max(), *rows[0].shape[1:]), rows[0].dtype)
            for row, length, part in zip(rows, here, block, strict=True):
                part[:length] = row[start : start + length]
            result = self.feed(block, here)
            last = np.flatnonzero((here > 0) & (start + here == lengths))
            outputs[last, 0] = result[last, here[last] - 1 if result.shape[1] > 1 else 0]
            progress(block.shape[1])
        return outputs

    def _check_prompts(self, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
        spec = self.manifest.input
        rows = [np.asarray(prompt, spec.dtype) for prompt in prompts]
        if len(rows) != self.batch:
            raise ValueError(f"{len(rows)} prompts for a batch of {self.batch}")
        for row in rows:
            if row.shape[1:] != spec.shape[2:]:
                raise ValueError(f"a prompt has shape {row.shape}, expected (positions, {spec.shape[2:]})")
        return rows

    def _chunk(self, wanted: int | None, lengths: np.ndarray) -> int:
        if wanted is not None and wanted < 1:
            raise UserError(ErrorKind.argument, f"The chunk is {wanted}; give 1 or more positions.")
        if self.manifest.mode == "step":
            if len({*lengths}) > 1:
                raise UserError(
                    ErrorKind.argument,
                    "a bundle of mode `step` advances all rows together, and the prompts differ in length. "
                    "Export it with --mode both.",
                )
            return 1
        chunk = wanted or self.max_chunk or DEFAULT_CHUNK
        return min(chunk, self.max_chunk or chunk)

    @abstractmethod
    def reset(self, row: int | None = None) -> None:
        """Set the states of one row, or of all, to zeros: as before the first token."""

    @abstractmethod
    def read_states(self) -> dict[str, np.ndarray]:
        """A copy of the states by name (`blocks.0.mlstm.C`), (B, ...) float32."""

    @abstractmethod
    def write_states(self, states: Mapping[str, np.ndarray]) -> None:
        """Set all states, as `read_states` gave them."""

    @abstractmethod
    def close(self) -> None:
        """Free the memory and whatever else the session holds. It is not used again."""

    def save(self, path: str | Path) -> None:
        """Write the states to a file (`bundle/FORMAT.md`), which the C++ library loads too.

        Raises:
            UserError: it cannot be written; nothing is left behind then.
        """
        write_states(Path(path), encode_states(self.bundle, self.batch, self.read_states()))

    def load(self, path: str | Path) -> None:
        """Set the states from a file of `save`, or of the C++ library's.

        Raises:
            UserError: it cannot be read, is damaged, or of another model or batch. The states stay as they were.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise UserError(ErrorKind.state, f"{path} cannot be read: {error.strerror}.") from None
        self.write_states(decode_states(self.bundle, self.batch, data, str(path)))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
