"""One interface to a bundle on any runtime: a session holds the state of B sequences and is fed one step at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from ..graph.manifest import Manifest


class Session(Protocol):
    """B sequences that advance together. Obtained from `open_session`; a context manager."""

    manifest: Manifest
    batch: int

    def step(self, inputs: np.ndarray) -> np.ndarray:
        """Feed one token a row, (B, 1) int64 (block stacks: (B, 1, D) float32), and advance the states.

        Returns logits (B, 1, V), or outputs (B, 1, D), float32. The array belongs to the caller.
        """

    def reset(self, row: int | None = None) -> None:
        """Set the states of one row, or of all, to zeros: as before the first token."""

    def read_states(self) -> dict[str, np.ndarray]:
        """A copy of the states by name (`blocks.0.mlstm.C`), (B, ...) float32."""

    def write_states(self, states: Mapping[str, np.ndarray]) -> None:
        """Set all states, as `read_states` gave them."""

    def __enter__(self) -> Session: ...

    def __exit__(self, *exception: object) -> None: ...
