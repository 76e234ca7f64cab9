"""The upstream PyTorch model, one step at a time: a `scenarios.Stepper`.

It is the reference of every comparison: built by the upstream packages' own classes from the user's configuration,
loaded with the user's weights as they lie in the file, in float32 on the CPU, on upstream's own PyTorch kernels.
Nothing of `xlstm_export.modeling` takes part (see `references`), so an error there cannot hide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ..errors import ErrorKind, UserError
from ..references import UpstreamModel


@contextmanager
def _upstreams_own_errors() -> Iterator[None]:
    """What upstream's code raises on a model is said to be upstream's."""
    try:
        yield
    except Exception as error:
        raise UserError(
            ErrorKind.checkpoint,
            f"upstream's own code fails on this model, so that the bundle cannot be compared with it: "
            f"{type(error).__name__}: {error}. Another --batch may help.",
        ) from None


class UpstreamSession:
    """`batch` sequences of an upstream model: a `scenarios.Stepper`, and `forward` over whole sequences.

    A row that starts from zeros is stepped apart from rows that do not: upstream's sLSTM asks of the whole batch
    at once whether it is at its first step (`torch.all(n == 0)`), and otherwise gives a fresh row the stabiliser
    max(i, log f) instead of i: the same outputs in exact arithmetic, other states. A sequence alone is the reference.
    """

    def __init__(self, model: UpstreamModel, shapes: Mapping[str, tuple[int, ...]], batch: int):
        self.batch = batch
        self._model = model
        self._states = {name: torch.zeros(batch, *shape) for name, shape in shapes.items()}
        self._fresh = torch.ones(batch, dtype=torch.bool)

    @torch.inference_mode()
    def step(self, inputs: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(np.ascontiguousarray(inputs))
        if self._fresh.all() or not self._fresh.any():
            with _upstreams_own_errors():
                outputs, self._states = self._model.step(rows, self._states)
        else:
            outputs = self._step_apart(rows)
        self._fresh[:] = False
        return outputs.numpy().copy()

    @torch.inference_mode()
    def forward(self, inputs: np.ndarray) -> np.ndarray:
        """A whole sequence from zero states, (B, T) or (B, T, D) → (B, T, V or D). The session's states stay."""
        with _upstreams_own_errors():
            return self._model.forward(torch.from_numpy(np.ascontiguousarray(inputs))).numpy()

    def _step_apart(self, inputs: Tensor) -> Tensor:
        parts = []
        for group in (self._fresh, ~self._fresh):
            with _upstreams_own_errors():
                part, states = self._model.step(inputs[group], {name: s[group] for name, s in self._states.items()})
            parts.append((group, part))
            for name, state in states.items():
                self._states[name][group] = state
        outputs = torch.empty(self.batch, *parts[0][1].shape[1:])
        for group, part in parts:
            outputs[group] = part
        return outputs

    @torch.inference_mode()
    def reset(self, row: int | None = None) -> None:
        which = slice(None) if row is None else row
        self._fresh[which] = True
        for state in self._states.values():
            state[which] = 0

    def read_states(self) -> dict[str, np.ndarray]:
        return {name: state.numpy().copy() for name, state in self._states.items()}

    def write_states(self, states: Mapping[str, np.ndarray]) -> None:
        self._states = {name: torch.from_numpy(np.array(states[name], np.float32)) for name in self._states}
        self._fresh = ~torch.stack([s.flatten(1).any(1) for s in self._states.values()]).any(0)
