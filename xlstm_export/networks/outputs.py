"""What a network returns, whatever structure its user gave it: tensors by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor

from ..errors import ErrorKind, UserError


@dataclass(frozen=True)
class Outputs:
    """The tensors of one pass, and where a state was returned that its user carries by hand."""

    names: tuple[str, ...]
    values: tuple[Tensor, ...]
    carried: int | None
    """The index in the returned tuple; None: none."""


def flatten_outputs(returned: Any, handed_out: frozenset[int] | set[int] = frozenset()) -> Outputs:
    """Tensors in a tensor, tuple, dictionary, dataclass or any nesting of these; what is something else is left out.

    Args:
        returned: by a network's `forward`.
        handed_out: identities of tensors that are states, and no outputs.

    Raises:
        UserError: there is no tensor, or two have one name.
    """
    carried = None
    if isinstance(returned, tuple | list):
        inside = [[value for _, value in _leaves(item, "")] for item in returned]
        carried = next((i for i, v in enumerate(inside) if v and all(id(x) in handed_out for x in v)), None)
    found = [(name, value) for name, value in _leaves(returned, "") if id(value) not in handed_out]
    if not found:
        raise UserError(ErrorKind.argument, "The network returns no tensor that could be an output.")
    if len(found) == 1 and found[0][0].isdigit() or found[0][0] == "":
        found = [("output", found[0][1])]
    names = tuple(f"output_{name}" if name[0].isdigit() else name for name, _ in found)
    if len({*names}) != len(names):
        raise UserError(ErrorKind.argument, f"The network returns two outputs of one name: {', '.join(names)}.")
    return Outputs(names, tuple(value for _, value in found), carried)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
        return
    items: Iterable[tuple[object, Any]]
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = zip(value._fields, value, strict=True)
    elif isinstance(value, tuple | list):
        items = enumerate(value)
    elif is_dataclass(value):
        items = ((f.name, getattr(value, f.name)) for f in fields(value))
    else:
        return
    for key, item in items:
        yield from _leaves(item, f"{name}.{key}" if name else str(key))
