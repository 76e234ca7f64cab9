"""What the records of a file of `torch.save` mean: tensors as views of storages, and where they lie by name.

A whole pickled module is read, too: its parameters and buffers lie in the attributes of its record.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .pickle_machine import BadPickle, Global, Persistent, Record
from .records import attribute, pairs_of

_OPTIMISER = re.compile(r"(?i)optim(?!al)")

MAX_NAMED = 200_000
MAX_DEPTH = 60

DTYPES = {
    name: getattr(torch, name)
    for name in "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool complex64 "
    "complex128 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz".split()
}
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_TENSORS = {
    "_rebuild_qtensor": "quantised",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "meta (without values)",
}


@dataclass(frozen=True)
class Storage:
    """What a persistent id names: `numel` elements of a dtype, under a key of the file."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class View:
    """A tensor: elements of a storage, by offset, shape and strides in elements of `dtype`."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def span(self) -> int:
        """Elements from the first that it uses to the last."""
        if not self.numel:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    @property
    def is_contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected and self.numel:
                return False
            expected *= size
        return True


@dataclass(frozen=True)
class Unreadable:
    """A tensor that is not dense, not here, or described wrongly; `reason` goes on from "tensor x is"."""

    reason: str


def storage_of(value: object) -> Storage | None:
    """The storage that a persistent id names; None for anything else."""
    id = value.id if isinstance(value, Persistent) else None
    if not isinstance(id, tuple) or len(id) not in (5, 6) or id[0] != "storage" or not isinstance(id[1], Global):
        return None
    _, kind, key, _, numel, *views = id
    if (
        kind.name not in _STORAGES
        or not isinstance(key, str)
        or not _is_count(numel)
        or any(v is not None for v in views)
    ):
        return None
    return Storage(key, _STORAGES[kind.name], numel)


def tensor_of(value: object) -> View | Unreadable | None:
    """The tensor that a record describes; None for anything else."""
    for _ in range(4):  # a parameter of a tensor of a subclass ...
        if not isinstance(value, Record) or not isinstance(value.kind, Global):
            return None
        name, args = value.kind.name, value.args
        if not value.kind.module.startswith("torch") or not name.startswith("_rebuild") or not isinstance(args, tuple):
            return None
        if name in ("_rebuild_parameter", "_rebuild_parameter_with_state") and args:
            value = args[0]
        elif name in ("_rebuild_from_type", "_rebuild_from_type_v2") and len(args) >= 3:
            value = Record(args[0], args[2])
        elif name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _view(args, None, args[6:])
        elif name == "_rebuild_tensor_v3" and len(args) >= 7:
            return _view(args, args[6], args[7:])
        elif name == "_rebuild_sparse_tensor" and args:
            return Unreadable(_layout(args[0]))
        else:
            return Unreadable(_TENSORS.get(name, f"of a kind of its own ({name.removeprefix('_rebuild_')[:60]})"))
    return Unreadable("wrapped many times over")


def _layout(value: object) -> str:
    """`torch.serialization._get_layout("torch.sparse_coo")`."""
    args = value.args if isinstance(value, Record) else None
    name = args[0] if isinstance(args, tuple) and args else None
    return name.removeprefix("torch.")[:40] if isinstance(name, str) else "sparse"


def _view(args: tuple, dtype: object, metadata: tuple) -> View | Unreadable:
    storage = storage_of(args[0]) if len(args) >= 4 else None
    if storage is None:
        return Unreadable("of a storage that is not understood (the file is damaged, or of another device)")
    kind = storage.dtype
    if dtype is not None:
        name = dtype.name if isinstance(dtype, Global) and dtype.module == "torch" else ""
        if name not in DTYPES:
            return Unreadable(f"of the dtype {name[:40] or 'unknown'}")
        kind = DTYPES[name]
    if any(metadata) and any(pairs_of(item) for item in metadata):
        return Unreadable("a conjugated or negated view")
    offset, shape, strides = args[1], _counts(args[2]), _counts(args[3])
    if not _is_count(offset) or shape is None or strides is None or len(shape) != len(strides) or len(shape) > 16:
        return Unreadable("described wrongly (the file is damaged)")
    view = View(storage, kind, offset, shape, strides)
    if (view.offset + view.span) * kind.itemsize > storage.nbytes:
        return Unreadable("larger than its storage (the file is damaged)")
    if view.numel > view.span:
        return Unreadable("a view whose elements overlap (an expanded tensor)")
    return view


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _counts(value: object) -> tuple[int, ...] | None:
    if isinstance(value, Record) and isinstance(value.args, tuple) and value.args:  # torch.Size
        value = value.args[0]
    if not isinstance(value, tuple | list) or len(value) > 64:
        return None
    return tuple(value) if all(_is_count(item) for item in value) else None


def named_tensors(content: object) -> dict[str, View | Unreadable]:
    """Every tensor in nested dictionaries, modules and objects, by the keys that lead to it, joined with dots.

    What is under a key that speaks of an optimiser is passed over.

    Raises:
        BadPickle: it has tensors without end.
    """
    walk = _Walk()
    walk.visit(content, "", 0)
    return walk.found


class _Walk:
    def __init__(self) -> None:
        self.found: dict[str, View | Unreadable] = {}
        self.path: set[int] = set()
        self.barren: set[int] = set()
        """Objects without a tensor below them: a pickle may lead to them in many ways."""

    def visit(self, value: object, prefix: str, depth: int) -> bool:
        """Whether there is a tensor at or below `value`."""
        if id(value) in self.path or id(value) in self.barren or depth > MAX_DEPTH:
            return False
        self.path.add(id(value))
        module, fertile = is_module(value), False
        for key, item in _state_of(value) if module else pairs_of(value) or ():
            if not isinstance(key, str) or not module and _OPTIMISER.search(key):
                continue
            if (tensor := tensor_of(item)) is None:
                fertile |= self.visit(item, f"{prefix}{key}.", depth + 1)
                continue
            fertile = True
            self.found[f"{prefix}{key}"] = tensor
            if len(self.found) > MAX_NAMED:
                raise BadPickle(f"it leads to more than {MAX_NAMED:,} tensors")
        self.path.remove(id(value))
        if not fertile:
            self.barren.add(id(value))
        return fertile


def is_module(value: object) -> bool:
    """Whether a record is a `torch.nn.Module` as pickled whole."""
    return isinstance(value, Record) and all(attribute(value, name) is not None for name in ("_parameters", "_modules"))


def _state_of(module: object) -> Iterator[tuple[object, object]]:
    """Parameters, persistent buffers and submodules of a module."""
    passing = attribute(module, "_non_persistent_buffers_set")
    if isinstance(passing, Record):  # set([...])
        passing = passing.args[0] if isinstance(passing.args, tuple) and passing.args else passing.elements
    skipped = {name for name in passing if isinstance(name, str)} if isinstance(passing, list | tuple) else set()
    yield from pairs_of(attribute(module, "_parameters")) or ()
    for key, item in pairs_of(attribute(module, "_buffers")) or ():
        if not (isinstance(key, str) and key in skipped):
            yield key, item
    yield from pairs_of(attribute(module, "_modules")) or ()
