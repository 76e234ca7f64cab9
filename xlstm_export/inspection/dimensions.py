"""An architecture in a few numbers: equal blocks are one group."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..errors import ErrorKind, UserError


@dataclass(frozen=True)
class Dimensions:
    """The architecture in a few numbers."""

    embedding_dim: int
    vocab_size: int | None
    """None: a block stack, (B, 1, D) in and out."""
    tied_head: bool
    has_head: bool
    """False: hidden states come out, (B, 1, D)."""
    blocks: tuple[BlockGroup, ...]
    patches: dict[str, Any] | None = None
    """Of a forecaster: what goes in and comes out."""


@dataclass(frozen=True)
class BlockGroup:
    """Blocks that are alike."""

    kind: str
    indices: tuple[int, ...]
    settings: dict[str, Any]


def dimensions_of(architecture: dict[str, Any], where: str) -> Dimensions:
    """From an architecture as plain values; equal blocks are one group."""
    try:
        alike: dict[str, list[int]] = {}
        for index, block in enumerate(architecture["blocks"]):
            alike.setdefault(json.dumps(block), []).append(index)
        groups = []
        for text, indices in alike.items():
            settings = json.loads(text)
            groups.append(BlockGroup(settings.pop("kind"), tuple(indices), settings))
        return Dimensions(
            embedding_dim=architecture["embedding_dim"],
            vocab_size=architecture["vocab_size"],
            tied_head=architecture["tied_head"],
            has_head=architecture.get("has_head", True),
            blocks=tuple(groups),
            patches=architecture.get("patches"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            ErrorKind.bundle, f"{where}: its architecture is incomplete ({error!r}). Export the bundle again."
        ) from None
