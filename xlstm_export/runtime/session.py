"""One interface to a bundle on any runtime: a session holds the state of B sequences and is fed one pass at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..bundle import Bundle, Manifest
from ..bundle.state_file import decode_states, encode_states, write_states
from ..errors import ErrorKind, UserError
from .checks import Pass, PassCheck, check_row, checked_states

DEFAULT_CHUNK = 256
"""Positions of one pass of a prompt: enough that weights are read from memory for hundreds of positions at once."""


class Session(ABC):
    """The states of B sequences that advance together. Obtained from `open_session`; a context manager.

    Attributes:
        bundle: what is run.
        batch: number of sequences, B.
        max_chunk: the most positions of one pass; None: any number.
    """

    def __init__(self, bundle: Bundle, batch: int, max_chunk: int | None = None):
        self.bundle, self.batch, self.max_chunk = bundle, batch, max_chunk
        self._check = PassCheck(bundle.manifest, batch)
        self._is_single = bundle.manifest.is_single

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    def run(self, inputs: Mapping[str, np.ndarray], lengths: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """One pass, of any bundle. It advances the states; a bundle of mode `window` has none.

        Args:
            inputs: by name, each of the shape and dtype that the manifest says. Those with positions have the same
                number S of them; S is any number in the modes `prefill` and `both`, and the whole length in `window`.
            lengths: (B), how many positions of each row are there; the rest is padding, and a row of length 0 keeps its
                states. None: all of them, which the modes `step` and `window` insist on.

        Returns:
            The outputs by name, float32, as the manifest says: those of padding mean nothing. They belong to the
            caller.

        Raises:
            UserError: inputs or lengths that do not fit, or a pass that failed. The states stay as they were; but where
                our CPU kernels update them in place, a pass that fails midway (`ErrorKind.runtime`) spoils them, and
                the session refuses to go on until it is reset or a state is loaded.
        """
        return self._run(self._check(inputs, lengths))

    @abstractmethod
    def _run(self, given: Pass) -> dict[str, np.ndarray]:
        """`run`, after the checks."""

    def feed(self, inputs: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        """`run` for a bundle with one input of positions and one output of vectors (`Manifest.is_single`).

        Args:
            inputs: tokens (B, S) int64, or vectors (B, S, D) float32 for a block stack. S is 1 in mode `step`.
            lengths: as for `run`.

        Returns:
            Logits (B, 1, V) at each row's last position, or (B, S, V) of a bundle exported with `--logits all`; outputs
            of a block stack likewise, with width D. Float32; those of padding mean nothing. The array belongs to the
            caller.

        Raises:
            UserError: as `run`, or a bundle of another kind.
        """
        self._require_single("feed")
        manifest = self.bundle.manifest
        return self.run({manifest.inputs[0].name: inputs}, lengths)[manifest.outputs[0].name]

    def step(self, inputs: np.ndarray) -> np.ndarray:
        """Feed one token a row, (B, 1) int64 (block stacks: (B, 1, D) float32), and advance the states.

        Returns logits (B, 1, V), or outputs (B, 1, D), float32. The array belongs to the caller.
        """
        self._require_single("step")
        if np.shape(inputs)[:2] != (self.batch, 1):
            name, shape = self.manifest.input.name, np.shape(inputs)
            raise UserError(ErrorKind.argument, f"{name} has shape {shape}, expected ({self.batch}, 1, ...).")
        return self.feed(inputs)

    def _require_single(self, method: str) -> None:
        if not self._is_single:
            inputs, outputs = (", ".join(t.name for t in ts) for ts in (self.manifest.inputs, self.manifest.outputs))
            raise UserError(
                ErrorKind.argument,
                f"`{method}` is for one input of positions and one output of vectors, and this bundle takes {inputs} "
                f"and gives {outputs}, in mode `{self.manifest.mode}`. Use `run`, which goes by names.",
            )

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
            UserError: as `feed`, or prompts of different lengths, and a bundle of mode `step`.
        """
        self._require_single("prefill")
        rows = self._check_prompts(prompts)
        lengths = np.array([len(row) for row in rows])
        outputs = np.zeros((self.batch, 1, self.manifest.output_width), np.float32)
        size = self._chunk(chunk, lengths)
        for start in range(0, lengths.max(), size):
            here = np.clip(lengths - start, 0, size)
            block = np.zeros((self.batch, here.max(), *rows[0].shape[1:]), rows[0].dtype)
            for row, length, part in zip(rows, here, block, strict=True):
                part[:length] = row[start : start + length]
            result = self.feed(block, None if self.manifest.lengths is None else here)
            last = np.flatnonzero((here > 0) & (start + here == lengths))
            outputs[last, 0] = result[last, here[last] - 1 if result.shape[1] > 1 else 0]
            progress(block.shape[1])
        return outputs

    def _check_prompts(self, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
        spec = self.manifest.input
        rows = [np.asarray(prompt, spec.dtype) for prompt in prompts]
        if len(rows) != self.batch:
            raise UserError(ErrorKind.argument, f"{len(rows)} prompts for a batch of {self.batch}: give one a row.")
        for row in rows:
            if row.shape[1:] != spec.shape[2:]:
                expected = ", ".join(map(str, ("positions", *spec.shape[2:])))
                raise UserError(ErrorKind.argument, f"a prompt has shape {row.shape}, expected ({expected}).")
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

    def reset(self, row: int | None = None) -> None:
        """Set the states of one row, or of all, to zeros: as before the first position.

        Raises:
            UserError: no such row.
        """
        check_row(row, self.batch)
        self._reset(row)

    @abstractmethod
    def _reset(self, row: int | None) -> None:
        """`reset`, after the check."""

    @abstractmethod
    def read_states(self) -> dict[str, np.ndarray]:
        """A copy of the states by name (`blocks.0.mlstm.C`, `encoder.blocks.2.slstm.c`), (B, ...).

        float32, whatever they are stored in.
        """

    def write_states(self, states: Mapping[str, np.ndarray]) -> None:
        """Set all states, as `read_states` gave them; what is stored in half precision is rounded to it.

        Raises:
            UserError: one is missing, of another shape, or beyond the range of its dtype. The states stay as they were.
        """
        self._write_states(checked_states(self.manifest, self.batch, states))

    @abstractmethod
    def _write_states(self, states: dict[str, np.ndarray]) -> None:
        """`write_states`, after the checks."""

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
        states = decode_states(self.bundle, self.batch, data, str(path))
        self._write_states(checked_states(self.manifest, self.batch, states, ErrorKind.state))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
