"""What the records of a pickle mean as plain values: configurations are looked for in them.

Objects become what a person would write for them: the fields of a dataclass, of a namespace, of an OmegaConf container
or of any other object are a mapping, without those that start with an underscore; the member of an enumeration is its
value; a NumPy scalar is a number; anything else is its class's name in angle brackets. Tensors are left out.

The result is a tree of its own. What many places of a pickle refer to is there once in the pickle and once a place in
the tree, so the tree is limited: in depth, in the length of lists and mappings, and in all. It grows level by level,
for configurations stand near the top, and stops where an object leads back to itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .interpolation import LEFT_OUT, resolve
from .pickle_machine import Global, Persistent, Record, Table

MAX_DEPTH = 40
MAX_LENGTH = 10_000
"""A longer list or mapping (a history, a vocabulary) is no configuration."""
MAX_VALUES = 200_000

_NUMPY = {f"{code}{size}" for code, sizes in (("f", "248"), ("i", "1248"), ("u", "1248"), ("b", "1")) for size in sizes}


def plain(value: object) -> object:
    """None, bool, int, float, str, list, or dict with str keys."""
    return _Tree().grow(value)


def pairs_of(value: object) -> Sequence[tuple[object, object]] | None:
    """Keys and values of a dictionary of any class, or attributes of an object; None for other values."""
    if isinstance(value, Table):
        return value.pairs
    if not isinstance(value, Record):
        return None
    if value.pairs:
        return value.pairs
    if isinstance(value.state, Table):
        return value.state.pairs
    if isinstance(value.state, tuple):  # (attributes or None, slots)
        tables = [part.pairs for part in value.state if isinstance(part, Table)]
        return [pair for pairs in tables for pair in pairs] if tables else None
    if name_of(class_of(value)) == "collections.OrderedDict":  # empty, or as Python 2 wrote it
        items = value.args[0] if isinstance(value.args, tuple) and value.args else []
        return [(item[0], item[1]) for item in items if isinstance(item, list | tuple) and len(item) == 2]
    return None


def attribute(value: object, name: str) -> object:
    """Of an object, or the entry of a dictionary; None where there is none."""
    return next((item for key, item in pairs_of(value) or () if isinstance(key, str) and key == name), None)


def class_of(record: Record) -> Global | None:
    """What an object is one of, whatever protocol wrote it; None where the pickle would call something else."""
    kind = record.kind
    if name_of(kind) in ("copyreg._reconstructor", "copy_reg._reconstructor") and isinstance(record.args, tuple):
        kind = next(iter(record.args), None)
    return kind if isinstance(kind, Global) else None


def name_of(kind: object) -> str:
    """Dotted; empty for what is no name. (A list as text could be longer than any memory.)"""
    return f"{kind.module}.{kind.name}" if isinstance(kind, Global) else ""


def is_torch(value: object) -> bool:
    """Whether a record rebuilds a tensor, or a storage."""
    if not isinstance(value, Record) or not isinstance(value.kind, Global):
        return isinstance(value, Persistent)
    return value.kind.module.startswith("torch") and value.kind.name.startswith("_rebuild")


class _Chain(NamedTuple):
    """The objects that lead to a value."""

    end: object
    above: _Chain | None
    depth: int

    def leads_to(self, value: object) -> bool:
        at: _Chain | None = self
        while at is not None and at.end is not value:
            at = at.above
        return at is not None


_TOP = _Chain(None, None, 0)


class _Tree:
    """A tree that grows: containers are made empty and filled when their level's turn comes."""

    def __init__(self) -> None:
        self.left = MAX_VALUES
        self.empty: deque[tuple[dict | list, Sequence, _Chain]] = deque()

    def grow(self, root: object, chain: _Chain = _TOP) -> object:
        result = self.value(root, chain)
        while self.empty:
            container, items, chain = self.empty.popleft()
            if isinstance(container, list):
                container.extend(self.value(item, chain) for item in items if not is_torch(item))
                continue
            for key, item in items:
                if isinstance(key, str | int | float) and not is_torch(item):
                    container[str(key)] = self.value(item, chain)
        return result

    def value(self, value: object, chain: _Chain) -> object:
        self.left -= 1
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if self.left < 0 or chain.depth > MAX_DEPTH or chain.leads_to(value):
            return LEFT_OUT
        chain = _Chain(value, chain, chain.depth + 1)
        if isinstance(value, list | tuple):
            return self.sequence(value, chain)
        if isinstance(value, Table):
            return self.mapping(value.pairs, chain)
        if isinstance(value, Record):
            return self.record(value, chain)
        return name_of(value) if isinstance(value, Global) else f"<{type(value).__name__}>"

    def sequence(self, values: object, chain: _Chain) -> object:
        if not isinstance(values, list | tuple) or len(values) > MAX_LENGTH:
            return LEFT_OUT
        result: list = []
        self.empty.append((result, values, chain))
        return result

    def mapping(self, pairs: Sequence[tuple[object, object]], chain: _Chain) -> object:
        if len(pairs) > MAX_LENGTH:
            return LEFT_OUT
        result: dict = {}
        self.empty.append((result, pairs, chain))
        return result

    def record(self, record: Record, chain: _Chain) -> object:
        kind = class_of(record)
        args = record.args if isinstance(record.args, tuple) else ()
        if (meaning := _MEANINGS.get(_family(kind))) is not None:
            return meaning(self, record, args, chain)
        if omegaconf := {"_content", "_val"} & set(_names(record.state)):
            return self.omegaconf(record, omegaconf.pop(), chain)
        if record.elements:
            return self.sequence(record.elements, chain)
        if (pairs := pairs_of(record)) is not None:
            return self.mapping(pairs if record.pairs else _fields(pairs), chain)
        if len(args) == 1 and isinstance(args[0], bool | int | float | str | Table):  # a member of an enumeration
            return self.value(args[0], chain)
        return f"<{name_of(kind)}>" if kind is not None else LEFT_OUT

    def omegaconf(self, record: Record, name: str, chain: _Chain) -> object:
        """A container of OmegaConf, or a leaf in one; references are relative to the outermost container."""
        content = attribute(record, name)
        if name == "_val" or attribute(record, "_parent") is not None or not isinstance(content, Table):
            return self.value(content, chain)
        inner = _Tree()
        inner.left = self.left
        values = inner.grow(content, chain)
        self.left = inner.left
        return resolve(values) if isinstance(values, dict) else values


def _names(state: object) -> Iterator[str]:
    yield from (name for name, _ in state.pairs if isinstance(name, str)) if isinstance(state, Table) else ()


def _fields(pairs: Sequence[tuple[object, object]]) -> Sequence[tuple[object, object]]:
    """An object's own fields, and a module's submodules by their names."""
    fields: list[tuple[object, object]] = []
    for key, value in pairs:
        if key == "_modules" or key == "__dict__":  # of torch.nn.Module, of pydantic
            fields += pairs_of(value) or ()
        elif not (isinstance(key, str) and key.startswith("_")):
            fields.append((key, value))
    return fields


def _family(kind: object) -> str:
    """A name for the classes that mean the same."""
    name = name_of(kind).replace("__builtin__.", "builtins.").replace("numpy.core.", "numpy._core.")
    return "pathlib" if name.startswith("pathlib.") else name


def _first(tree: _Tree, record: Record, args: tuple, chain: _Chain) -> object:
    return tree.sequence(args[0] if args else record.elements, chain)


def _scalar(tree: _Tree, record: Record, args: tuple, chain: _Chain) -> object:
    values = _numbers(args[0], args[1]) if len(args) == 2 else None
    return LEFT_OUT if values is None or len(values) != 1 else values[0]


def _array(tree: _Tree, record: Record, args: tuple, chain: _Chain) -> object:
    """A small array of numbers: its values, row by row."""
    state = record.state if isinstance(record.state, tuple) else ()
    values = _numbers(state[2], state[4]) if len(state) == 5 else None
    return LEFT_OUT if values is None or len(values) > MAX_LENGTH else values


def _numbers(dtype: object, data: object) -> list | None:
    """Bytes under a `numpy.dtype`, where that is a plain one."""
    data = _bytes(data)
    if not isinstance(dtype, Record) or name_of(dtype.kind) != "numpy.dtype" or not isinstance(dtype.args, tuple):
        return None
    code = dtype.args[0] if dtype.args else None
    if not isinstance(code, str) or code not in _NUMPY or data is None or len(data) > 8 * MAX_LENGTH:
        return None
    order = ">" if isinstance(dtype.state, tuple) and dtype.state[1:2] == (">",) else "<"
    kind = np.dtype(order + code)
    values = np.frombuffer(data[: len(data) // kind.itemsize * kind.itemsize], kind).tolist()
    return [value if math.isfinite(value) else str(value) for value in values]


def _bytes(value: object) -> bytes | None:
    """Bytes, also as protocol 2 writes them: text to be encoded."""
    if isinstance(value, Record) and name_of(value.kind) == "_codecs.encode" and isinstance(value.args, tuple):
        text = value.args[0] if value.args else None
        return text.encode("latin-1", "replace") if isinstance(text, str) else None
    return bytes(value) if isinstance(value, bytes | bytearray) else None


def _path(tree: _Tree, record: Record, args: tuple, chain: _Chain) -> object:
    return "/".join(part for part in args if isinstance(part, str)).replace("//", "/")


def _partial(tree: _Tree, record: Record, args: tuple, chain: _Chain) -> object:
    """`functools.partial`: its keywords."""
    state = record.state if isinstance(record.state, tuple) else ()
    return tree.value(state[2], chain) if len(state) == 4 else LEFT_OUT


def _member(tree: _Tree, record: Record, args: tuple, chain: _Chain) -> object:
    """`getattr(Activation, "gelu")`: an enumeration that is pickled by name."""
    return tree.value(args[1], chain) if len(args) == 2 else LEFT_OUT


_MEANINGS: dict[str, Callable[[_Tree, Record, tuple, _Chain], object]] = {
    **dict.fromkeys((f"builtins.{name}" for name in ("set", "frozenset", "list", "tuple")), _first),
    "torch.Size": _first,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.multiarray._reconstruct": _array,
    "pathlib": _path,
    "functools.partial": _partial,
    "builtins.getattr": _member,
}
