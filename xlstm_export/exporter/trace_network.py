"""A user's network → ONNX graph: its lifted form traced for one pass, states as arguments and results."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..errors import ErrorKind, UserError, printable
from ..modeling.layers import Chunk
from ..modeling.model import StateSpec
from ..networks.failures import line_of
from ..networks.functions import TimeFunctions
from ..networks.inputs import NetworkInput
from ..networks.outputs import Outputs, flatten_outputs
from ..networks.plan import LiftedNetwork, Plan
from ..networks.tape import Tape
from .onnx_graph import make_graph, silenced

POSITIONS = 3  # of the example that a stream is traced with


@dataclass(frozen=True)
class TracedNetwork:
    """A graph and what it takes and gives; its initializers have their bytes."""

    graph: ir.Model
    states: tuple[StateSpec, ...]
    outputs: tuple[str, ...]


class _Pass(nn.Module):
    """One pass as a function of inputs, states and lengths."""

    def __init__(self, network: LiftedNetwork, plan: Plan | None, note: Callable[[Outputs], None]):
        super().__init__()
        self.network = network.module
        self._lifted, self._plan = network, plan
        self.note = note

    def forward(self, inputs: Sequence[Tensor], states: Sequence[Tensor], lengths: Tensor | None = None) -> Any:
        described = self._lifted.inputs
        batch = inputs[0].shape[0]
        positions = next(
            (v.shape[one.time_axis] for one, v in zip(described, inputs, strict=True) if one.time_axis is not None), 1
        )
        chunk = Chunk(batch, positions, lengths)
        values = [
            value if one.time_axis is None else chunk.valid(value, one.time_axis)
            for one, value in zip(described, inputs, strict=True)
        ]
        if self._plan is None:
            tape = Tape(batch, positions)
        else:
            named = {spec.name: state for spec, state in zip(self._plan.states, states, strict=True)}
            tape = self._plan.tape(batch, positions, lengths, named)
        decided = {} if self._plan is None else self._plan.functions
        returned = self._lifted.run(values, tape, TimeFunctions(tape, decided))
        outputs = flatten_outputs(returned, tape.handed_out)
        self.note(outputs)
        floats = [value.float() for value in outputs.values]
        next_states = () if self._plan is None else [tape.next_states[spec.name] for spec in self._plan.states]
        return *floats, *next_states


def trace_network(
    network: LiftedNetwork, plan: Plan | None, batch: int | None, positions: int, step: bool, largest: int
) -> TracedNetwork:
    """Trace one pass of a network.

    Args:
        network: lifted, in the dtypes of the bundle.
        plan: of a stream; None: whole sequences from zeros.
        batch: a fixed batch size; None: any.
        positions: of the example, where whole sequences are traced.
        step: one position a pass, without `lengths`.
        largest: integer inputs are below it.

    Raises:
        UserError: torch cannot trace the user's code; says where that is and what torch says.
    """
    streams = plan is not None and not step
    has_time = any(one.time_axis is not None for one in network.inputs)
    length = (POSITIONS if streams else 1) if plan is not None else positions
    rows, generator = batch or 2, torch.Generator().manual_seed(0)
    inputs = [one.random(rows, length, generator, largest) for one in network.inputs]
    specs = () if plan is None else plan.states
    states = [torch.zeros(rows, *spec.shape) for spec in specs]
    lengths = {"lengths": torch.full((rows,), length, dtype=torch.int32)} if streams else {}
    any_batch = {0: torch.export.Dim("batch", min=1)} if batch is None else {}

    def dynamic(sequence: Any) -> dict[str, Any]:
        def of(axis: int | None) -> dict[int, Any]:
            return any_batch | ({} if axis is None or (plan is not None and step) else {axis: sequence})

        shapes = tuple(of(one.time_axis) for one in network.inputs)
        return {"inputs": shapes, "states": (any_batch,) * len(states), "lengths": any_batch if streams else None}

    found: list[Outputs] = []
    wrapper = _Pass(network, plan, found.append).eval()
    program = _export(wrapper, (tuple(inputs), tuple(states)), lengths, dynamic, plan is None, has_time)
    names = [one.name for one in network.inputs] + [spec.name for spec in specs] + [*lengths]
    outputs = [f"{n}.out" if n in names else n for n in found[-1].names]
    graph = make_graph(program, (), {}, None, names, [*outputs, *(spec.next_name for spec in specs)])
    _name_dimensions(graph.graph, network.inputs)
    _name_after_paths(graph.graph)
    return TracedNetwork(graph, specs, tuple(outputs))


def _name_after_paths(graph: ir.Graph) -> None:
    """By the user's own paths: without the wrapper, and without what stands between a lifted module and its parts."""
    for named in [*graph.initializers.values(), *graph, *(value for node in graph for value in node.outputs)]:
        if named.name is not None and named.name.startswith("network."):
            named.name = named.name.removeprefix("network.").replace(".module.", ".", 1)


def _name_dimensions(graph: ir.Graph, inputs: Sequence[NetworkInput]) -> None:
    """`batch` and `sequence` in place of torch's own symbols, also inside expressions."""
    names: dict[str, str] = {}
    for one, value in zip(inputs, graph.inputs, strict=False):
        for axis, name in ((0, "batch"), (one.time_axis, "sequence")):
            dimension = None if axis is None or value.shape is None else value.shape[axis]
            if isinstance(dimension, ir.SymbolicDim) and dimension.value is not None:
                names[str(dimension.value)] = name
    values = [*graph.inputs, *graph.outputs, *(v for node in graph for v in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dimension, names) for dimension in value.shape])


def _renamed(dimension: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | str | None:
    if isinstance(dimension, int):
        return dimension
    text = str(dimension.value)
    return None if dimension.value is None else re.sub(r"\w+", lambda m: names.get(m[0], m[0]), text)


def _export(
    wrapper: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Tensor],
    dynamic: Callable[[Any], dict[str, Any]],
    window: bool,
    has_time: bool,
) -> torch.export.ExportedProgram:
    def export(sequence: Any, deferred: bool) -> torch.export.ExportedProgram:
        shapes = {name: shape for name, shape in dynamic(sequence).items() if name != "lengths" or kwargs}
        return torch.export.export(
            wrapper,
            args,
            kwargs,
            dynamic_shapes=shapes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=deferred,
        )

    try:
        with silenced("torch"), torch.no_grad():
            try:
                return export(torch.export.Dim("sequence", min=1), False)
            except torch._dynamo.exc.UserError as error:
                if error.error_type is not torch._dynamo.exc.UserErrorType.CONSTRAINT_VIOLATION:
                    raise
                # Conditions on strides, which hold for all lengths although torch cannot show it; or, of a window, a
                # least length, which strided convolutions have.
                least = re.search(r"sequence = Dim\('sequence', min=(\d+)", str(error)) if window else None
                return export(torch.export.Dim("sequence", min=int(least[1]) if least else 1), True)
    except UserError:
        raise
    except Exception as error:  # torch raises many kinds, and wraps those of the user's code
        if (fixed := re.search(r"guard (\d+) <= .* <= (\d+)$", str(error), re.MULTILINE)) and fixed[1] == fixed[2]:
            raise UserError(
                ErrorKind.argument,
                "torch cannot trace the network for any number of positions: its code takes their number for a "
                "constant, as a loop over positions does. Call the block on the whole sequence in place of `step` in a "
                "loop; or feed one position a call, without S; or write a number in place of S.",
            ) from error
        line = line_of(error)
        hint = (
            " Where a length must be known beforehand, write the number in place of S: the network then takes windows "
            "of that length."
            if has_time
            else ""
        )
        raise UserError(
            ErrorKind.argument,
            f"torch cannot trace the network{f' at {line}' if line else ''}: {_first_lines(str(error))}. Change that "
            f"line to operators of torch that do not look at values or sizes.{hint}",
        ) from error


def _first_lines(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return printable(" ".join(lines[:3]))[:400].rstrip(".")
