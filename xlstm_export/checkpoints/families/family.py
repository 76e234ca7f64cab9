"""What a model family supplies. A family is one module, one registration beside this one, and one upstream model."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...bundle.forecast import ForecastSpec
from ...errors import ErrorKind, UserError
from ...modeling.architecture import Architecture
from ..checkpoint import Checkpoint
from ..files.settings import Marks, Settings
from ..files.tensors import LazyTensor
from ..files.weights import Weights, missing


@dataclass(frozen=True)
class Family:
    """How checkpoints of one upstream code base are told and read; README.md says how to add one."""

    name: str
    """`xlstm-large`. Its upstream model is the module of that name in `references` (`xlstm_large`)."""
    models: str
    """The upstream classes that it reads, as messages name them."""
    configurations: str
    """The upstream classes that its configurations have the fields of, as messages name them."""
    marks: Marks
    """What tells its configurations."""
    keys: frozenset[str]
    """Its settings, on the level of the marks: what `--set` may begin with."""
    packages: tuple[str, ...]
    """The distributions that its upstream model needs, for `validate`."""
    roots: Callable[[Collection[str]], list[str]]
    """What the names of tensors (without wrappers) of each model of this family among them start with.

    Empty for a model at the top, else ending in a dot. `read` is given the tensors below a root, without it.
    """
    outline: Callable[[Weights], str]
    """A model in a few words, from the tensors below its root: "3 blocks of width 64, vocabulary 97"."""
    read: Callable[[Weights, Settings], Checkpoint]
    """The checkpoint; raises `UserError` unless every tensor is understood and the settings agree with them."""
    from_settings: Callable[[Settings], tuple[Architecture, dict[str, object]]]
    """The architecture and the complete upstream configuration from settings alone."""
    forecast: Callable[[Mapping[str, Any]], ForecastSpec] | None = None
    """Of forecasters: how a bundle is fed, from the complete upstream configuration."""

    def owns_settings(self, settings: Settings) -> bool:
        """Whether a configuration is of this family, unless a family registered before it owns it."""
        return self.marks.describe(settings.values) or self.marks.name(settings.values)


def outline_of(weights: Weights, norm: str, embedding: str) -> str:
    """`Family.outline`, from the names of a norm as wide as the model and of the embedding, where there is one."""
    blocks = {match[1] for name in weights.tensors if (match := re.search(r"\bblocks\.(\d+)\.", name))}
    words = f"{len(blocks)} block{'s' if len(blocks) > 1 else ''}"
    if norm in weights and len(weights.tensors[norm].shape) == 1:
        words += f" of width {weights.tensors[norm].shape[0]}"
    if embedding in weights and len(weights.tensors[embedding].shape) == 2:
        words += f", vocabulary {weights.tensors[embedding].shape[0]}"
    return words


def plain_factor(
    dim: int,
    width: int,
    candidates: list[tuple[float, float]],
    rounded: Callable[[int, float, float], int],
) -> tuple[float, int]:
    """A factor and a multiple that upstream's rounding turns into `width`: the first candidate that does, else exact.

    Args:
        dim: the width that the factor multiplies.
        width: the wanted result.
        candidates: (factor, multiple) pairs to prefer.
        rounded: upstream's rounding, (dim, factor, multiple) -> width.
    """
    for factor, multiple in [*candidates, (width / dim, 1), ((width - 0.5) / dim, 1), ((width + 0.5) / dim, 1)]:
        if rounded(dim, factor, multiple) == width:
            return float(factor), int(multiple)
    raise AssertionError(f"no factor makes {width} of {dim}")


@dataclass(frozen=True)
class Tables:
    """The two tensors with a row for each word of the vocabulary."""

    embedding: str
    head: str
    tied: str
    """The setting that makes them one."""
    backbone: str
    """What `--select` calls the part of the model without them (or without the head alone)."""


def join_tables(weights: Weights, tables: Tables, settings: Settings) -> tuple[Weights, bool]:
    """Both tables present, and whether they are one (tied).

    Raises:
        UserError: one is absent and nothing says that they are tied, or they are said to be tied and differ.
    """
    told = settings.boolean(tables.tied, False) if tables.tied in settings else None
    absent = [name for name in (tables.embedding, tables.head) if name not in weights]
    if absent:
        if not told:
            raise UserError(
                ErrorKind.checkpoint,
                f"{missing(weights, absent)} If embedding and head are one matrix, say so: --set {tables.tied}=true. "
                f"If there is none, export the model without it: --select {weights.root}{tables.backbone}",
            )
        names = {name: name for name in weights.tensors}
        present = tables.head if absent == [tables.embedding] else tables.embedding
        return weights.renamed(names | {absent[0]: present}), True
    for name in (tables.embedding, tables.head):
        weights.require_readable(name)
    tied = same_values(weights.tensors[tables.embedding], weights.tensors[tables.head])
    if told and not tied:
        raise settings.conflict(tables.tied, False, f"{tables.embedding} and {tables.head} differ")
    return weights, tied


def without_vocabulary(settings: Settings) -> tuple[Settings, tuple[str, ...]]:
    """The settings of the part between embedding and head, and a note of what they say of these two."""
    if settings.values.get("vocab_size") is None:
        return settings.without("vocab_size"), ()
    note = f"vocab_size in {settings.source} has no effect: what is exported takes and gives vectors."
    return settings.without("vocab_size"), (note,)


def same_values(a: LazyTensor, b: LazyTensor) -> bool:
    """Whether two tensors are equal; stops reading at the first difference."""
    if a.is_same(b):
        return True
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return all(torch.equal(x, y) for x, y in zip(a.chunks(), b.chunks(), strict=True))
