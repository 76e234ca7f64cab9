"""One interface to a bundle on any runtime: a session holds the state of B sequences and is fed one pass at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..bundle import Bundle, Manifest
from ..bundle.state_file import decode_states, encode_states, write_states
from ..errors import ErrorKind, UserError
from .checks import Pass, PassCheck, check_row, check_rows, checked_states
from .states import RowStates

DEFAULT_CHUNK = 256
"""Positions of one pass of a prompt: enough that weights are read from memory for hundreds of positions at once."""


class Session(ABC):
    """The states of B sequences, one a row, that advance together or some at a time. Obtained from `open_session`; a
    context manager. One thread at a time may use it.

    Attributes:
        bundle: what is run.
        batch: number of sequences, B.
        max_chunk: the most positions of one pass; None: any number.
        fewest_rows: that a pass runs on; the whole batch where the bundle's is fixed.
    """

    def __init__(self, bundle: Bundle, states: RowStates, max_chunk: int | None = None, fewest_rows: int = 1):
        self.bundle, self.batch, self.max_chunk = bundle, states.batch, max_chunk
        self.fewest_rows = bundle.manifest.batch or fewest_rows
        self._states, self._all = states, range(states.batch)
        self._check = PassCheck(bundle.manifest)
        self._is_single = bundle.manifest.is_single

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    def run(
        self, inputs: Mapping[str, np.ndarray], lengths: np.ndarray | None = None, rows: range | None = None
    ) -> dict[str, np.ndarray]:
        """One pass, of any bundle. It advances the states; a bundle of mode `window` has none.

        Args:
            inputs: by name, each of the shape and dtype that the manifest says. Those with positions have the same
                number S of them; S is any number in the modes `prefill` and `both`, and the whole length in `window`.
            lengths: (B), how many positions of each row are there; the rest is padding, and a row of length 0 keeps its
                states. None: all of them, which the modes `step` and `window` insist on.
            rows: which rows the pass is of; B above is their number then, and the others stay as they are. None: all,
                which a bundle with a fixed batch insists on (`fewest_rows`). A row that sat out a pass may be copied
                before it joins one with others that ran.

        Returns:
            The outputs by name, float32, as the manifest says: those of padding mean nothing. They belong to the
            caller.

        Raises:
            UserError: inputs or lengths that do not fit, or a pass that failed. The states stay as they were; but where
                our CPU kernels update them in place, a pass that fails midway (`ErrorKind.runtime`) spoils its rows,
                and these refuse to go on until they are reset or written.
        """
        if rows is None:
            rows = self._all
        else:
            check_rows(rows, self.batch, self.fewest_rows)
        given = self._check(inputs, lengths, len(rows))
        turn = self._states.begin(rows)
        outputs = self._run(given, rows, turn)
        self._states.finish(rows, turn)
        return outputs

    @abstractmethod
    def _run(self, given: Pass, rows: range, turn: int) -> dict[str, np.ndarray]:
        """`run`, between the checks and what becomes of the states: from their buffers of this turn to the others."""

    def feed(self, inputs: np.ndarray, lengths: np.ndarray | None = None, rows: range | None = None) -> np.ndarray:
        """`run` for a bundle with one input of positions and one output of vectors (`Manifest.is_single`).

        Args:
            inputs: tokens (B, S) int64, or vectors (B, S, D) float32 for a block stack. S is 1 in mode `step`.
            lengths, rows: as for `run`.

        Returns:
            Logits (B, 1, V) at each row's last position, or (B, S, V) of a bundle exported with `--logits all`; outputs
            of a block stack likewise, with width D. Float32; those of padding mean nothing. The array belongs to the
            caller.

        Raises:
            UserError: as `run`, or a bundle of another kind.
        """
        self._require_single("feed")
        manifest = self.bundle.manifest
        return self.run({manifest.inputs[0].name: inputs}, lengths, rows)[manifest.outputs[0].name]

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
        self._states.reset(self._which(row))

    def read_states(self, row: int | None = None) -> dict[str, np.ndarray]:
        """A copy of the states by name (`blocks.0.mlstm.C`, `encoder.blocks.2.slstm.c`), (B, ...); of one row (1, ...).

        float32, whatever they are stored in.

        Raises:
            UserError: no such row, or a pass spoilt them.
        """
        rows = self._which(row)
        self._states.require(rows)
        return {name: value.astype(np.float32, copy=False) for name, value in self._states.read(rows).items()}

    def write_states(self, states: Mapping[str, np.ndarray], row: int | None = None) -> None:
        """Set all states, or those of one row, as `read_states` gave them; half precision is rounded to.

        Raises:
            UserError: one is missing, of another shape, or beyond the range of its dtype, or no such row. The states
                stay as they were.
        """
        rows = self._which(row)
        self._states.write(rows, checked_states(self.manifest, len(rows), states))

    def copy_row(self, source: int, target: int) -> None:
        """Give row `target` the states of row `source`, as they are stored.

        Raises:
            UserError: no such row.
        """
        self._states.copy(self._which(source).start, self._which(target).start)

    def swap_rows(self, one: int, other: int) -> None:
        """Exchange the states of two rows.

        Raises:
            UserError: no such row.
        """
        self._states.swap(self._which(one).start, self._which(other).start)

    def is_spoilt(self, row: int) -> bool:
        """Whether a pass that failed left the row without states (see `run`).

        Raises:
            UserError: no such row.
        """
        return self._states.is_spoilt(self._which(row).start)

    def _which(self, row: int | None) -> range:
        check_row(row, self.batch)
        return self._all if row is None else range(int(row), int(row) + 1)

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
        self._states.write(self._all, checked_states(self.manifest, self.batch, states, ErrorKind.state))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
