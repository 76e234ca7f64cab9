"""A user's own module as the reference of a comparison: one row's sequence in, its outputs by name.

The module runs as it is, in float64, over whole sequences from their first position. Each row runs alone. That is no
matter of taste: upstream's PyTorch sLSTM asks the whole batch at once whether it is at its first step
(`torch.all(n == 0)`), so that a row that was reset beside warm rows takes another branch than it takes alone. A bundle
gives each row what it gets alone, as upstream's CUDA kernels do, and what it gets alone is the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..bundle import Manifest
from ..errors import ErrorKind, UserError
from ..modeling.layers import Dtypes
from ..networks import parse_inputs
from ..networks.copies import copy_network
from ..networks.failures import users_errors
from ..networks.functions import TimeFunctions
from ..networks.outputs import flatten_outputs
from ..networks.plan import LiftedNetwork, Plan
from ..networks.unrounded import run_unrounded

Row = Mapping[str, np.ndarray]
"""The inputs of one row by name, each with a batch of 1."""


class NetworkReference:
    """A copy of a module.

    Args:
        module: the user's.
        manifest: of the bundle that is compared with it.
        dtype: to compute in: torch.float64, or torch.float32.
        change: what is done to the copy before it is widened.
    """

    def __init__(
        self,
        module: nn.Module,
        manifest: Manifest,
        dtype: torch.dtype,
        change: Callable[[nn.Module], None] = lambda _: None,
    ):
        self.manifest, self.dtype = manifest, dtype
        self._module = copy_network(module).eval().requires_grad_(False)
        self.unrounded = run_unrounded(self._module)
        """Whether it holds cells that round as they are shipped."""
        change(self._module)
        self._module.to(dtype)
        for part in self._module.modules():
            # Upstream's mask of a context's length, which is in no checkpoint; without it, it makes one that fits.
            if "causal_mask" in part._buffers:
                part._buffers["causal_mask"] = None
        carried = manifest.architecture.get("carried")
        self._argument: str | None = carried["argument"] if carried else None
        self._index: int | None = carried["output"] if carried else None

    @torch.inference_mode()
    def sequence(self, row: Row) -> dict[str, np.ndarray]:
        """Outputs (1, ...) in float64, by name, of one row's whole sequence from its first position.

        Raises:
            UserError: the module fails on it, or does not give the bundle's outputs.
        """
        return self._named(self._call(self._module, row), frozenset())

    @torch.inference_mode()
    def steps(self, rows: Iterable[Row]) -> list[dict[str, np.ndarray]]:
        """Outputs (1, ...) of one step after the other, from the first on, the state carried from step to step.

        Args:
            rows: the inputs of each step.

        Raises:
            UserError: as `sequence`.
        """
        module = copy_network(self._module)  # it may keep what it remembers in itself
        state, outputs = None, []
        for row in rows:
            more: dict[str, Any] = {} if self._argument is None or state is None else {self._argument: state}
            returned = self._call(module, row, **more)
            states: frozenset[int] = frozenset()
            if self._index is not None:
                state = returned[self._index]
                states = frozenset(map(id, _tensors(state)))
            outputs.append(self._named(returned, states))
        return outputs

    @torch.inference_mode()
    def states(self, plan: Plan, rows: Iterable[Row]) -> dict[str, np.ndarray]:
        """States (1, ...) in float64, by name, that the module's lifted form is left with, started from zeros.

        Args:
            plan: how the module runs as a stream.
            rows: the inputs of one pass after the other.
        """
        copies, lifted = self._copies, self._lifted
        states = plan.zeros(copies, self.dtype)
        for row in rows:
            sizes = [row[one.name].shape[one.time_axis] for one in lifted.inputs if one.time_axis is not None]
            lengths = torch.full((copies,), sizes[0], dtype=torch.int32) if sizes else None
            tape = plan.tape(copies, sizes[0] if sizes else 1, lengths, states)
            lifted.run([*self._given(row).values()], tape, TimeFunctions(tape, plan.functions))
            states = tape.next_states
        return {name: state[:1].double().numpy() for name, state in states.items()}

    @cached_property
    def _lifted(self) -> LiftedNetwork:
        inputs = parse_inputs(self.manifest.architecture["inputs"])
        return LiftedNetwork.of(copy_network(self._module), inputs, Dtypes(self.dtype, self.dtype))

    @property
    def _copies(self) -> int:
        """Of a row in a batch: a module that was exported for one batch may take no other."""
        return self.manifest.batch or 1

    def _given(self, row: Row) -> dict[str, Tensor]:
        given = {}
        for spec in self.manifest.inputs:
            tensor = torch.from_numpy(np.repeat(row[spec.name], self._copies, 0).astype(spec.dtype))
            given[spec.name] = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        return given

    def _call(self, module: nn.Module, row: Row, **more: Any) -> Any:
        with users_errors("The module fails"):
            return module(**self._given(row), **more)

    def _named(self, returned: Any, states: frozenset[int]) -> dict[str, np.ndarray]:
        found = flatten_outputs(returned, states)
        theirs = dict(zip(found.names, found.values, strict=True))
        if "output" not in theirs and "output_0" in theirs:  # alone beside a state that is no output of the bundle's
            theirs["output"] = theirs["output_0"]
        ours = [tensor.name for tensor in self.manifest.outputs]
        if missing := [name for name in ours if name not in theirs]:
            raise UserError(
                ErrorKind.argument,
                f"The bundle gives {', '.join(ours)}, and the module returns {', '.join(found.names)}: {missing[0]} is "
                "not there. Give the module that the bundle was made from, or export it again.",
            )
        return {name: theirs[name][:1].double().numpy() for name in ours}


def _tensors(value: Any) -> Iterable[Tensor]:
    """In any nesting of tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
