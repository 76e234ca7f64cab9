"""How far a kernel that was timed is from the recurrence in float64, which runs on the same device, on one row and two
heads of it."""

from __future__ import annotations

import torch

from xlstm_export.operators.eager import mlstm_cell, slstm_cell

from .bench import relative_error
from .launchers import mlstm_numbers

ROWS, HEADS = slice(0, 1), slice(0, 2)


def mlstm_errors(tensors: dict, one_position: bool, **values: float) -> dict[str, float]:
    """Relative errors of h, and of the worst of the states. Not of a launch in place.

    Args:
        tensors: what the kernel read and wrote, by the launcher's names.
        one_position: they have no axis of positions.
        values: numbers of the cell other than xLSTM-7B has them.
    """

    def cut(name: str, by_position: bool) -> torch.Tensor:
        tensor = tensors[name].unsqueeze(1) if by_position and one_position else tensors[name]
        return (tensor[ROWS, :, HEADS] if by_position else tensor[ROWS, HEADS]).double()

    numbers = mlstm_numbers(tensors["q"].shape[-1]) | values
    inputs = [cut(name, True) for name in "qkvif"] + [cut(f"{name}_in", False) for name in "Cnm"]
    h, *states = mlstm_cell(*inputs, **numbers)
    actual = [cut(f"{name}_out", False) for name in "Cnm"]
    return _errors(cut("h", True), h, actual, states)


def slstm_errors(tensors: dict, one_position: bool) -> dict[str, float]:
    """The same for the sLSTM; of hidden."""
    x, hidden = (tensors[name].unsqueeze(1) if one_position else tensors[name] for name in ("x", "hidden"))
    states = [tensors[f"{name}_in"][ROWS, HEADS].double() for name in "ycnm"]
    inputs = [x[ROWS, :, :, HEADS].double(), tensors["R"][HEADS].double(), tensors["b"][:, HEADS].double()]
    expected, *next_states = slstm_cell(*inputs, *states, forget_clamp=0.0)
    actual = [tensors[f"{name}_out"][ROWS, HEADS] for name in "ycnm"]
    return _errors(hidden[ROWS, :, HEADS], expected, actual, next_states)


def _errors(h: torch.Tensor, expected: torch.Tensor, states: list, expected_states: list) -> dict[str, float]:
    worst = max(relative_error(a, b) for a, b in zip(states, expected_states, strict=True))
    return {"error_h": relative_error(h, expected), "error_states": worst}
