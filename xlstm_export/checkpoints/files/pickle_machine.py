"""Pickles taken apart, without running anything: what they would import and call becomes a description of it.

Why this is safe. `pickletools.genops` of the standard library splits the stream into opcodes and decodes their
arguments (numbers, text, bytes); it interprets none of them. This module keeps the stack and the memo of the pickle
machine and has one short function for each opcode, which moves values about or wraps them in the passive classes
below. None looks a name up, calls a value of the stream, or sets an attribute of anything but those classes: a global
is two strings, and whatever would be called (REDUCE, NEWOBJ, OBJ, INST, BUILD, ...) is a `Record` of what it would be
called with. Values are never hashed, compared or printed either: a dictionary is a list of pairs.

Why it is bounded. An opcode makes at most one small object, and copies nothing: what a pickle refers to many times is
there once. Opcodes and bytes are counted. What walks over the result counts its steps, too (`plain.py`).
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, cast

MAX_BYTES = 1 << 27
"""Of a pickle. Tensors are not in it; a model's names and configuration are some megabytes at most."""
MAX_OPCODES = 3_000_000


class BadPickle(Exception):
    """The stream is no pickle, a damaged one, or beyond the limits; says which."""


@dataclass(frozen=True)
class Global:
    """A class or function that the pickle names. It is not looked up."""

    module: str
    name: str


class Record:
    """An object that was not made: what would be called for it, with what, and what would be put into it."""

    __slots__ = ("args", "elements", "kind", "pairs", "state")

    def __init__(self, kind: object, args: object, state: object = None):
        self.kind = kind
        """A `Global`, as a rule; whatever the pickle would call."""
        self.args = args
        """A tuple, as a rule."""
        self.state = state
        """The argument of `__setstate__`, or the attributes."""
        self.pairs: list[tuple[object, object]] = []
        """Of keys and values."""
        self.elements: list[object] = []


class Table:
    """A dictionary: its keys may be anything, in any order, and twice."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[object, object]]):
        self.pairs = pairs


class Persistent:
    """What lies outside the pickle: a storage, in files of `torch.save`."""

    __slots__ = ("id",)

    def __init__(self, id: object):
        self.id = id


class BoundedStream:
    """A file from its present place on: no more is read at once than is there, and MAX_BYTES altogether."""

    def __init__(self, file: BinaryIO, size: int):
        self._file = file
        self._left = min(MAX_BYTES, size - file.tell())
        self._cut = self._left == MAX_BYTES

    def read(self, count: int) -> bytes:
        return self._taken(self._file.read(min(count, self._left)), count)

    def readline(self) -> bytes:
        return self._taken(self._file.readline(self._left), 1)

    def _taken(self, data: bytes, wanted: int) -> bytes:
        self._left -= len(data)
        if self._cut and len(data) < wanted and not self._left:
            raise BadPickle(f"it is longer than {MAX_BYTES >> 20} MiB")
        return data


def take_apart(stream: BinaryIO | BoundedStream, note: Callable[[Persistent], None] = lambda _: None) -> object:
    """The object that one pickle describes, as records; the stream is left behind its end.

    Values are None, bool, int, float, str, bytes, list (also for sets), tuple and the classes of this module. `note`
    is told of everything that lies outside.

    Raises:
        BadPickle: see there.
    """
    machine = _Machine(note)
    try:
        for opcode, argument in _opcodes(stream):
            action = _ACTIONS.get(opcode)
            if action is None:
                raise BadPickle(f"it has the opcode {opcode}, which no checkpoint needs")
            action(machine, argument)
        return machine.stack.pop()
    except (LookupError, TypeError, AttributeError):  # of an action: the stack does not hold what it takes
        raise BadPickle("its opcodes do not fit together") from None
    except (ValueError, OverflowError, struct.error) as error:  # of genops
        raise BadPickle(" ".join(str(error).split())[:120]) from None


def _opcodes(stream: BinaryIO | BoundedStream) -> Iterator[tuple[str, Any]]:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], stream))):
        if count >= MAX_OPCODES:
            raise BadPickle(f"it has more than {MAX_OPCODES:,} opcodes")
        yield opcode.name, argument


class _Machine:
    def __init__(self, note: Callable[[Persistent], None]) -> None:
        self.note = note
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """The stacks under each MARK."""
        self.memo: dict[int, object] = {}

    def to_mark(self) -> list[Any]:
        """What was pushed since the last MARK."""
        values, self.stack = self.stack, self.below.pop()
        return values


def _pairs(values: list[Any]) -> list[tuple[object, object]]:
    return list(zip(values[::2], values[1::2], strict=True))


def _push(machine: _Machine, argument: object) -> None:
    machine.stack.append(argument)


def _constant(make: Callable[[], object]) -> Callable[[_Machine, object], None]:
    return lambda machine, _: machine.stack.append(make())


def _nothing(machine: _Machine, argument: object) -> None:
    pass


def _mark(machine: _Machine, _: object) -> None:
    machine.below.append(machine.stack)
    machine.stack = []


def _pop(machine: _Machine, _: object) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.to_mark()


def _pop_mark(machine: _Machine, _: object) -> None:
    machine.to_mark()


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _memoize(machine: _Machine, _: object) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _get(machine: _Machine, index: int) -> None:
    machine.stack.append(machine.memo[index])


def _tuple(count: int) -> Callable[[_Machine, object], None]:
    def action(machine: _Machine, _: object) -> None:
        values = tuple(machine.stack.pop() for _ in range(count))
        machine.stack.append(values[::-1])

    return action


def _append(machine: _Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    (target.elements if isinstance(target, Record) else _is(target, list)).extend(values)


def _set_items(machine: _Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    (target if isinstance(target, Record) else _is(target, Table)).pairs.extend(_pairs(values))


def _is(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected a {kind.__name__}")
    return value


def _global(machine: _Machine, argument: str) -> None:
    machine.stack.append(_named(*argument.split(" ", 1)))


def _stack_global(machine: _Machine, _: object) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(_named(module, name))


def _named(module: object, name: object) -> Global:
    return Global(_is(module, str), _is(name, str))


def _reduce(machine: _Machine, _: object) -> None:
    args, kind = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(Record(kind, args))


def _new_with_keywords(machine: _Machine, _: object) -> None:
    keywords, args, kind = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    machine.stack.append(Record(kind, args, keywords))


def _instance(machine: _Machine, argument: str) -> None:
    args = tuple(machine.to_mark())
    machine.stack.append(Record(_named(*argument.split(" ", 1)), args))


def _object(machine: _Machine, _: object) -> None:
    kind, *args = machine.to_mark()
    machine.stack.append(Record(kind, tuple(args)))


def _build(machine: _Machine, _: object) -> None:
    state = machine.stack.pop()
    target = machine.stack[-1]
    if isinstance(target, Record):  # anything else has no attributes here: what is put into it is dropped
        target.state = state


def _persistent(machine: _Machine, id: object) -> None:
    value = Persistent(id)
    machine.note(value)
    machine.stack.append(value)


_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(
        "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES "
        "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8".split(),
        _push,
    ),
    **dict.fromkeys("PROTO FRAME STOP".split(), _nothing),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_LIST": _constant(list),
    "EMPTY_SET": _constant(list),
    "EMPTY_TUPLE": _constant(tuple),
    "EMPTY_DICT": _constant(lambda: Table([])),
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    **dict.fromkeys("PUT BINPUT LONG_BINPUT".split(), _put),
    **dict.fromkeys("GET BINGET LONG_BINGET".split(), _get),
    "MEMOIZE": _memoize,
    "LIST": lambda machine, _: _push(machine, machine.to_mark()),
    "FROZENSET": lambda machine, _: _push(machine, machine.to_mark()),
    "TUPLE": lambda machine, _: _push(machine, tuple(machine.to_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "DICT": lambda machine, _: _push(machine, Table(_pairs(machine.to_mark()))),
    "APPEND": lambda machine, _: _append(machine, [machine.stack.pop()]),
    **dict.fromkeys("APPENDS ADDITEMS".split(), lambda machine, _: _append(machine, machine.to_mark())),
    "SETITEM": lambda machine, _: _set_items(machine, [machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.to_mark()),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    **dict.fromkeys("REDUCE NEWOBJ".split(), _reduce),
    "NEWOBJ_EX": _new_with_keywords,
    "INST": _instance,
    "OBJ": _object,
    "BUILD": _build,
    "PERSID": _persistent,
    "BINPERSID": lambda machine, _: _persistent(machine, machine.stack.pop()),
}
"""By name. There is none for EXT1, EXT2, EXT4 (numbers that a process registers), NEXT_BUFFER, READONLY_BUFFER."""
