"""Which of the tensors are the model: found by the names of its blocks, or chosen by the user among several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ErrorKind, UserError
from . import foreign
from .families import FAMILIES
from .families.family import Family
from .files.weights import FLOATS, Weights

_MANY = 64  # models, of which no file holds so many that one is meant
_SHOWN = 6  # of whatever a message lists

TOP = "."
"""What `--select` calls a model that lies above the others."""


@dataclass(frozen=True)
class Part:
    """A model among the tensors of a checkpoint."""

    family: Family
    weights: Weights
    """The tensors below its root."""

    @property
    def name(self) -> str:
        """What `--select` calls it."""
        return self.weights.root.removesuffix(".") or TOP

    @property
    def outline(self) -> str:
        return f"{self.family.name}, {self.family.outline(self.weights)}"


def find_parts(weights: Weights) -> list[Part]:
    """Every model among tensors without wrappers in their names; what is there twice, byte for byte, is one."""
    parts: list[Part] = []
    roots = [(root, family) for family in FAMILIES for root in family.roots(weights.tensors.keys())]
    for root, family in roots[:_MANY]:
        inner = tuple(other for other, _ in roots if other != root and other.startswith(root))
        own = {name: name for name in weights.tensors if name.startswith(root) and not name.startswith(inner)}
        part = Part(family, weights.renamed(own).below(root))
        if not any(_is_same(part.weights, other.weights) for other in parts):
            parts.append(part)
    return parts


def choose_part(path: Path, weights: Weights, select: str | None) -> Part:
    """The one model that is meant, with a note of what lies beside it.

    Args:
        path: what the user named, for messages.
        weights: without wrappers in their names.
        select: the keys that lead to it, dotted; it may hold more than the model, but no second one.

    Raises:
        UserError: no model is there, or several are.
    """
    if select is not None and select != TOP:
        weights = weights.below(_prefix(path, weights, select.strip(".")))
    parts = find_parts(weights)
    if select == TOP:
        parts = [part for part in parts if part.name == TOP] or parts
    if not parts:
        raise foreign.unknown_tensors(path, weights.tensors)
    if len(parts) > 1:
        raise UserError(
            ErrorKind.argument,
            f"{path} holds {len(parts)} models: {_listed(parts)}. Say which one is meant: --select {parts[0].name}",
        )
    (part,) = parts
    beside = _beside(weights, part)
    if not beside:
        return part
    shown = ", ".join(beside[:_SHOWN]) + (f" and {len(beside) - _SHOWN} more" if len(beside) > _SHOWN else "")
    note = f"{shown} beside {part.name} in {path.name} is not exported."
    return replace(part, weights=replace(part.weights, notes=(*part.weights.notes, note)))


def _prefix(path: Path, weights: Weights, select: str) -> str:
    """What the names of the selected tensors start with: these keys at the top, or in the one other place."""
    pattern = re.compile(rf"(?:.*?\.)??{re.escape(select)}\.")
    prefixes = {match[0] for name in weights.tensors if (match := pattern.match(name))}
    if f"{select}." in prefixes:
        return f"{select}."
    if len(prefixes) == 1:
        return prefixes.pop()
    if prefixes:
        places = ", ".join(sorted(prefix.removesuffix(".") for prefix in prefixes)[:4])
        raise UserError(ErrorKind.argument, f"{path} holds {select} in several places: {places}. Select one of these.")
    parts = find_parts(weights)
    there = _listed(parts) if parts else f"tensor {next(iter(weights.tensors))}, ..."
    raise UserError(ErrorKind.argument, f"{path} holds nothing under --select {select}. It holds {there}.")


def _listed(parts: Sequence[Part]) -> str:
    words = [f"{part.name} ({part.outline})" for part in parts[:_SHOWN]]
    if len(parts) > _SHOWN:
        words.append(f"{len(parts) - _SHOWN} more")
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _beside(weights: Weights, part: Part) -> list[str]:
    """Where the other tensors lie that could be weights, by the first key in which they part from the model."""
    own = part.weights.root.removeprefix(weights.root)
    model = {f"{own}{name}" for name in part.weights.tensors}
    extents = {tensor.extent for tensor in part.weights.tensors.values()} - {None}
    found: dict[str, None] = {}
    for name, tensor in weights.tensors.items():
        if name in model or tensor.extent in extents or tensor.dtype not in FLOATS or not tensor.shape:
            continue
        keys, depth = name.split("."), 0
        while keys[: depth + 1] == own.split(".")[: depth + 1]:
            depth += 1
        found[".".join(keys[: depth + 1])] = None
    return sorted(found)


def _is_same(a: Weights, b: Weights) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(t.is_same(b.tensors[name]) for name, t in a.tensors.items())
