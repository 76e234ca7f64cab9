"""Functions of torch that a user's code calls along time, and what a stream makes of them.

Three of them have a state that is well defined: zeros put before a sequence (`F.pad`, and the padding of a `conv1d` or
`conv2d` whose end is cut off) are what came before it, and "the last position" is that of each row's own. They are met
where the code calls them, while it runs or is traced, by the order of the calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .tape import Tape

Kind = Literal["pad", "conv", "last"]


@dataclass(frozen=True)
class TimeCall:
    """The n-th call that one of the rules is for: what it does along which axis of its tensor."""

    kind: Kind
    axis: int
    width: int
    """Positions before the first: of a padding, or of a convolution's window. 0 for `last`."""
    keep: bool = False
    """Of `last`: the axis stays, with one position."""
    name: str = ""
    """Of its state: `encoder.conv.window`."""
    fold: int = 1
    """Rows of its tensor for each row of the batch."""


Candidate = Callable[[Tensor, tuple[Any, ...], dict[str, Any]], list[TimeCall]]


def _pad(x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[TimeCall]:
    widths = kwargs.get("pad", args[1] if len(args) > 1 else ())
    mode = kwargs.get("mode", args[2] if len(args) > 2 else "constant")
    value = kwargs.get("value", args[3] if len(args) > 3 else None)
    if mode != "constant" or value not in (None, 0, 0.0):
        return []
    pairs = [(i // 2, widths[i], widths[i + 1]) for i in range(0, len(widths), 2)]
    return [TimeCall("pad", x.dim() - 1 - back, before) for back, before, after in pairs if before > 0 and after <= 0]


def _conv(x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[TimeCall]:
    """Of one or two dimensions."""
    weight: Any = kwargs.get("weight", args[1] if len(args) > 1 else None)
    stride, padding, dilation = (
        _each(kwargs.get(name, args[at] if len(args) > at else default), x.dim() - 2)
        for name, at, default in (("stride", 3, 1), ("padding", 4, 0), ("dilation", 5, 1))
    )
    if isinstance(padding[0], str) or x.dim() != weight.dim():
        return []
    windows = [d * (size - 1) for d, size in zip(dilation, weight.shape[2:], strict=True)]
    found = zip(stride, padding, windows, strict=True)
    return [TimeCall("conv", 2 + at, w) for at, (step, pad, w) in enumerate(found) if step == 1 and pad == w > 0]


def _each(value: Any, dimensions: int) -> tuple[Any, ...]:
    """An argument of a convolution for each of its dimensions."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return values * dimensions if len(values) == 1 else values


def _getitem(x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[TimeCall]:
    """`x[:, -1]`, `x[:, -1:]`, `x[..., -1]`: one axis at its end, the others whole."""
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    if any(not (i is Ellipsis or isinstance(i, int | slice)) or isinstance(i, bool) for i in index):
        return []
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *[slice(None)] * (x.dim() - len(index) + 1), *index[at + 1 :])
    special = [(axis, i) for axis, i in enumerate(index) if i != slice(None)]
    if len(special) != 1:
        return []
    axis, i = special[0]
    return [TimeCall("last", axis, 0, i != -1)] if i in (-1, slice(-1, None)) else []


def _select(x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[TimeCall]:
    dim, index = kwargs.get("dim", args[1] if len(args) > 1 else 0), kwargs.get("index", args[-1])
    return [TimeCall("last", dim % x.dim(), 0)] if index == -1 else []


RULES: Mapping[Any, Candidate] = {
    F.pad: _pad,
    torch._C._nn.pad: _pad,
    torch.conv1d: _conv,
    torch.conv2d: _conv,
    torch.Tensor.__getitem__: _getitem,
    torch.select: _select,
    torch.Tensor.select: _select,
}


class TimeFunctions(TorchFunctionMode):
    """Active while a network runs. Notes the candidates along time, or carries out what was decided of them.

    Args:
        tape: of the pass.
        decided: by the order of the calls; None: note them.
        observe: told of every call: function, arguments, result.
        module: says which of the user's modules runs.
    """

    def __init__(
        self,
        tape: Tape,
        decided: Mapping[int, TimeCall] | None = None,
        observe: Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None] | None = None,
        module: Callable[[], str] = lambda: "",
    ):
        super().__init__()
        self._tape, self._decided, self._observe, self._module = tape, decided, observe, module
        self.noted: dict[int, list[TimeCall]] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self._count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._tape.inside:
            return func(*args, **kwargs)
        result = self._result(func, args, kwargs)
        if self._observe is not None:
            self._observe(func, args, kwargs, result)
        return result

    def _result(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = RULES.get(func)
        x: Any = args[0] if args else kwargs.get("input")
        candidates = rule(x, args, kwargs) if rule is not None and isinstance(x, Tensor) else []
        if not candidates:
            return func(*args, **kwargs)
        index, self._count = self._count, self._count + 1
        if self._decided is None:
            self.shapes[index] = tuple(x.shape)
            found = [c for c in candidates if x.shape[c.axis] == self._tape.positions]
            self.noted[index] = [replace(c, name=self._state_name()) if c.width else c for c in found]
        call = (self._decided or {}).get(index)
        if call is None:
            return func(*args, **kwargs)
        if call.kind == "last":
            return last_position(self._tape, x, call)
        columns = with_window(self._tape, x, call)
        if call.kind == "pad":
            widths = list(kwargs.get("pad", args[1] if len(args) > 1 else ()))
            widths[2 * (x.dim() - 1 - call.axis)] = 0
            return F.pad(columns, widths) if any(widths) else columns
        return _convolve(func, columns, args, kwargs, call)

    def _state_name(self) -> str:
        """After the module that makes the call; a second one in it has a number."""
        module = self._module()
        name = f"{module}.window" if module else "window"
        taken = {call.name for calls in self.noted.values() for call in calls}
        return next(n for k in range(1, 10**6) if (n := name if k == 1 else f"{name}#{k}") not in taken)


def with_window(tape: Tape, x: Tensor, call: TimeCall) -> Tensor:
    """x behind what came before it, width positions; keeps what comes before the next pass's."""
    name = call.name
    before = tape.states[name].to(x.dtype)
    shape = list(x.shape)
    shape[call.axis] = call.width
    columns = torch.cat([before.reshape(shape), x], call.axis)
    if tape.lengths is None:
        after = columns.narrow(call.axis, columns.shape[call.axis] - call.width, call.width)
    else:
        start = _per_row(tape.lengths, call)
        index = start[:, None] + torch.arange(call.width)
        view = [shape[0], *[1] * (len(shape) - 1)]
        view[call.axis] = call.width
        after = torch.gather(columns, call.axis, index.reshape(view).expand(shape))
    tape.next_states[name] = after.reshape(before.shape).to(tape.states[name].dtype)
    return columns


def last_position(tape: Tape, x: Tensor, call: TimeCall) -> Tensor:
    """Of each row, what stands at its own last position; zeros' for a row of none."""
    if tape.lengths is None:
        return x.narrow(call.axis, x.shape[call.axis] - 1, 1) if call.keep else x.select(call.axis, -1)
    at = (_per_row(tape.lengths, call) - 1).clamp(min=0)
    shape = list(x.shape)
    shape[call.axis] = 1
    y = torch.gather(x, call.axis, at.reshape(-1, *[1] * (x.dim() - 1)).expand(shape))
    return y if call.keep else y.squeeze(call.axis)


def _per_row(lengths: Tensor, call: TimeCall) -> Tensor:
    """(B) int64, or each of them again where rows of the batch were folded."""
    return lengths.long() if call.fold == 1 else lengths.long().repeat_interleave(call.fold)


def _convolve(func: Any, columns: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], call: TimeCall) -> Tensor:
    """Over columns in place of its padding, then as many zeros as its user cuts off the end."""
    rest, kwargs = list(args), dict(kwargs)
    kwargs.pop("input", None)
    padding = list(_each(kwargs.get("padding", rest[4] if len(rest) > 4 else 0), columns.dim() - 2))
    padding[call.axis - 2] = 0
    if len(rest) > 4:
        rest[4] = padding
    else:
        kwargs["padding"] = padding
    y = func(columns, *rest[1:], **kwargs)
    return F.pad(y, [0, 0] * (y.dim() - 1 - call.axis) + [0, call.width])
