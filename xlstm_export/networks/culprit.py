"""Which of a network's operators mixes time: the first whose result on pieces is not that on the whole."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .failures import is_users


@dataclass(frozen=True)
class Record:
    """A call, and what it gave."""

    function: str
    where: str
    """The module that it belongs to, and the line of the user's code."""
    results: tuple[Tensor, ...]


class Modules:
    """Knows which module of a network runs, by its path."""

    def __init__(self, network: nn.Module):
        self._paths = {id(module): path for path, module in network.named_modules()}
        self._stack: list[str] = []

    @property
    def now(self) -> str:
        """The innermost that has a path; empty: the network itself."""
        return next((path for path in reversed(self._stack) if path), "")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While the network runs."""
        enter, leave = (
            nn.modules.module.register_module_forward_pre_hook,
            nn.modules.module.register_module_forward_hook,
        )
        hooks = [enter(self._enter), leave(self._leave, always_call=True)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, module: nn.Module, _: object) -> None:
        self._stack.append(self._paths.get(id(module), ""))

    def _leave(self, *_: object) -> None:
        self._stack.pop()


class Recorder(Modules):
    """Collects the calls of one run, in their order."""

    def __init__(self, network: nn.Module):
        super().__init__(network)
        self.records: list[Record] = []

    def call(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: object) -> None:
        """One call of a function of torch."""
        tensors = _tensors(result)
        if tensors:
            self.records.append(Record(_describe(function, args, kwargs), self._where(), tensors))

    def module(self, path: str, result: object) -> None:
        """One call of a lifted module."""
        self.records.append(Record(path, path, _tensors(result)[:1]))

    def _where(self) -> str:
        line = users_line()
        return " ".join(part for part in (f"in {self.now}" if self.now else "", f"({line})" if line else "") if part)


def users_line() -> str:
    """File and line of the innermost code on the stack that is neither torch's nor ours."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if is_users(name):
            return f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _describe(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    name = getattr(function, "__name__", str(function)).strip("_")
    axis = kwargs.get("dim", kwargs.get("axis"))
    if axis is None and name in _REDUCTIONS and len(args) > 1 and isinstance(args[1], int | tuple | list):
        axis = args[1]
    return name if axis is None else f"{name} over axis {axis}"


_REDUCTIONS = frozenset(
    "mean sum max min amax amin std var softmax log_softmax cumsum flip roll argmax prod norm logsumexp".split()
)


def _tensors(result: object) -> tuple[Tensor, ...]:
    if isinstance(result, Tensor):
        return (result,)
    return tuple(v for v in result if isinstance(v, Tensor)) if isinstance(result, tuple | list) else ()


def first_mixing(
    whole: Sequence[Record],
    pieces: Sequence[Sequence[Record]],
    lengths: Sequence[int],
    close: Callable[[Tensor, Tensor], bool],
) -> Record | None:
    """The first call of the whole run that the pieces do not agree with; None: all that can be compared agree."""
    for index, record in enumerate(whole):
        parts = [piece[index] for piece in pieces if index < len(piece)]
        if len(parts) < len(pieces) or any(part.function != record.function for part in parts):
            return record  # another path through the code, which depends on the length
        for at, value in enumerate(record.results):
            if not _agrees(value, [part.results[at] for part in parts], lengths, close):
                return record
    return None


def _agrees(
    value: Tensor, parts: list[Tensor], lengths: Sequence[int], close: Callable[[Tensor, Tensor], bool]
) -> bool:
    """Whether parts are the pieces of a value along time, or it itself; what cannot be compared passes."""
    total = sum(lengths)
    if all(part.shape == value.shape for part in parts):
        return close(value, parts[-1])
    if any(part.dim() != value.dim() for part in parts):
        return False
    varying = [a for a in range(value.dim()) if any(part.shape[a] != value.shape[a] for part in parts)]
    axis = varying[0]
    size = value.shape[axis]
    pairs = zip(parts, lengths, strict=True)
    if len(varying) > 1 or size % total or any(p.shape[axis] * total != size * n for p, n in pairs):
        return True
    folded = size // total  # (..., rows, time, inner, ...) as one axis, of which the first is not known
    for rows in range(1, folded + 1):
        if folded % rows:
            continue
        split = [p.unflatten(axis, (rows, n, folded // rows)) for p, n in zip(parts, lengths, strict=True)]
        if close(value.unflatten(axis, (rows, total, folded // rows)), torch.cat(split, axis + 1)):
            return True
    return False
