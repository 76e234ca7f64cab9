"""What a session is given, held against the manifest: each mistake is one message, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from ..bundle import Manifest, TensorSpec
from ..bundle.dtypes import DTYPES
from ..errors import ErrorKind, UserError


@dataclass(frozen=True)
class Pass:
    """One pass as a back end takes it: contiguous arrays in the graph's types."""

    inputs: dict[str, np.ndarray]
    """By name, in the manifest's order."""
    lengths: np.ndarray | None
    """(B) int32; None in the modes `step` and `window`."""
    positions: int
    """Of every row, those of padding included; 1 where no input has positions."""


class PassCheck:
    """Makes a `Pass` of what `Session.run` is given."""

    def __init__(self, manifest: Manifest):
        self._manifest, self._batch = manifest, 1
        self._inputs = {tensor.name: tensor for tensor in manifest.inputs}
        self._time_axes = {t.name: t.time_axis for t in manifest.inputs if t.time_axis is not None}

    def __call__(self, inputs: Mapping[str, np.ndarray], lengths: np.ndarray | None, batch: int) -> Pass:
        """Check one pass over so many rows.

        Raises:
            UserError: an input is missing or unknown, of a wrong shape or dtype, inputs disagree on the number of
                positions, lengths are wrong or have no place, or a token is not in the vocabulary.
        """
        self._batch = batch
        if inputs.keys() != self._inputs.keys():
            self._fail_names(inputs)
        positions = self._positions(inputs)
        arrays = {name: self._array(spec, inputs[name], positions) for name, spec in self._inputs.items()}
        if self._manifest.lengths is None:
            self._check_absent(lengths, positions)
            checked = None
        else:
            checked = self._lengths(lengths, positions)
        if self._manifest.vocab_size is not None:
            self._check_tokens(next(iter(arrays.values())), None if lengths is None else checked)
        return Pass(arrays, checked, positions)

    def _positions(self, inputs: Mapping[str, np.ndarray]) -> int:
        found = {}
        for name, axis in self._time_axes.items():
            shape = np.shape(inputs[name])
            if len(shape) != len(self._inputs[name].shape) or shape[axis] < 1:
                self._fail_shape(self._inputs[name], shape, None)
            found[name] = shape[axis]
        if len(set(found.values())) > 1:
            counts = ", ".join(f"{name} has {count}" for name, count in found.items())
            _fail(f"the inputs disagree on the number of positions: {counts}. Give all of them the same.")
        return next(iter(found.values()), 1)

    def _array(self, spec: TensorSpec, given: np.ndarray, positions: int) -> np.ndarray:
        if np.shape(given) != spec.sized(self._batch, positions):
            self._fail_shape(spec, np.shape(given), positions)
        array = np.asarray(given)
        if array.dtype != spec.dtype:
            self._check_dtype(spec, array)
        return np.ascontiguousarray(array, spec.dtype)

    def _check_dtype(self, spec: TensorSpec, array: np.ndarray) -> None:
        if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
            _fail(f"{spec.name} is {array.dtype}, expected {spec.dtype}. Convert it first.")
        if spec.dtype == "int32" and array.size and (array.min() < -(2**31) or array.max() >= 2**31):
            _fail(f"{spec.name} holds {array[np.abs(array) >= 2**31][0]}, which is no int32.")

    def _lengths(self, lengths: np.ndarray | None, positions: int) -> np.ndarray:
        if lengths is None:
            return np.full(self._batch, positions, np.int32)
        if np.shape(lengths) != (self._batch,) or np.min(lengths) < 0 or np.max(lengths) > positions:
            _fail(f"lengths are {lengths}, expected {self._batch} numbers from 0 to {positions}, one a row.")
        return np.ascontiguousarray(lengths, np.int32)

    def _check_absent(self, lengths: np.ndarray | None, positions: int) -> None:
        if lengths is None or (np.shape(lengths) == (self._batch,) and np.all(np.asarray(lengths) == positions)):
            return
        remedy = {
            "step": "has no idle rows. Export it with --mode both.",
            "window": "takes whole sequences of one length. Feed rows of other lengths in passes of their own.",
        }
        mode = self._manifest.mode
        _fail(f"lengths are {lengths}, but a bundle of mode `{mode}` {remedy[mode]}")

    def _check_tokens(self, tokens: np.ndarray, lengths: np.ndarray | None) -> None:
        here = tokens if lengths is None else tokens[np.arange(tokens.shape[1]) < lengths[:, None]]
        vocabulary = self._manifest.vocab_size or 0
        if here.size and (here.min() < 0 or here.max() >= vocabulary):
            wrong = here[(here < 0) | (here >= vocabulary)][0]
            _fail(f"token {wrong} is not in the vocabulary of {vocabulary}.")

    def _fail_names(self, inputs: Mapping[str, np.ndarray]) -> NoReturn:
        missing = [name for name in self._inputs if name not in inputs]
        unknown = [name for name in inputs if name not in self._inputs]
        what = [f"{', '.join(names)} {how}" for names, how in ((missing, "missing"), (unknown, "unknown")) if names]
        takes = ", ".join(f"{t.name} {t.dtype} {self._expected(t, None)}" for t in self._inputs.values())
        _fail(f"inputs: {'; '.join(what)}. This bundle takes {takes}.")

    def _fail_shape(self, spec: TensorSpec, given: tuple[int, ...], positions: int | None) -> NoReturn:
        _fail(f"{spec.name} has shape {given}, expected {self._expected(spec, positions)}.")

    def _expected(self, spec: TensorSpec, positions: int | None) -> str:
        """A shape as people read it: `(2, positions, 12)`, or with their number where it is known."""
        sizes = [str(positions or "positions") if d == "sequence" else str(d) for d in spec.shape[1:]]
        return f"({', '.join([str(self._batch), *sizes])}{',' if not sizes else ''})"


def check_row(row: int | None, batch: int) -> None:
    """See that a session has such a row; None means all.

    Raises:
        UserError: it has not.
    """
    if row is not None and not 0 <= row < batch:
        _fail(f"row {row} is not one of 0 to {batch - 1}: the session has a batch of {batch}.")


def check_rows(rows: range, batch: int, fewest: int) -> None:
    """See that a pass can run on these rows of a session.

    Raises:
        UserError: the session does not have them, or runs more of them only.
    """
    if rows.step != 1 or not 0 <= rows.start < rows.stop <= batch:
        _fail(f"rows are {rows}, expected some that follow each other, of 0 to {batch - 1}.")
    if len(rows) < fewest:
        _fail(
            f"rows are {rows}, but a pass runs {fewest} or more: the bundle was exported, or the engine was built, for "
            "such batches. Export it with --batch dynamic, or build it with --batch 1:OPT:MAX."
        )


def checked_states(
    manifest: Manifest, batch: int, states: Mapping[str, np.ndarray], kind: ErrorKind = ErrorKind.argument
) -> dict[str, np.ndarray]:
    """All states by name, contiguous, in their own dtypes and the manifest's order.

    Raises:
        UserError: one is missing, has another shape, or is beyond the range of its dtype (which is of this `kind`).
    """
    arrays = {}
    for state in manifest.states:
        if state.input not in states:
            _fail(f"state {state.input} is missing. Give all that `read_states` gave.")
        given = np.asarray(states[state.input], np.float32)
        if given.shape != state.sized(batch):
            _fail(f"state {state.input} has shape {given.shape}, expected {state.sized(batch)}.")
        with np.errstate(over="ignore"):
            arrays[state.input] = array = np.ascontiguousarray(given, DTYPES[state.dtype])
        if state.dtype != "float32" and not np.array_equal(np.isfinite(given), np.isfinite(array)):
            raise UserError(
                kind,
                f"state {state.input} has values beyond the range of {state.dtype}, in which this bundle stores it. "
                "Use a bundle with --state-dtype bfloat16 or float32.",
            )
    return arrays


def _fail(message: str) -> NoReturn:
    raise UserError(ErrorKind.argument, message)
