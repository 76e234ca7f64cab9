"""The upstream PyTorch models, which every bundle is compared with: one module for each family, named after it.

Family `xlstm-large` has its model in `xlstm_large.py`, as a class `Reference` that is made of the complete upstream
configuration (`Checkpoint.config`) and is an `UpstreamModel`. Upstream packages are imported when a model is made.
Nothing of `xlstm_export.modeling` takes part, so an error there cannot hide.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

States = dict[str, Tensor]
"""By the bundle's names and in its layouts (`blocks.0.mlstm.C`), (N, ...) float32."""


class UpstreamModel(Protocol):
    """An upstream model as a function of inputs and states."""

    module: nn.Module

    def step(self, inputs: Tensor, states: States) -> tuple[Tensor, States]:
        """Inputs (N, 1), or (N, 1, D) for a block stack → outputs (N, 1, V or D) and the next states.

        Upstream writes into the states it is given: they are used up.
        """

    def forward(self, inputs: Tensor) -> Tensor:
        """A whole sequence from zero states: inputs (N, T), or (N, T, D) → outputs (N, T, V or D)."""


def build_upstream(family: str, config: Mapping[str, Any]) -> UpstreamModel:
    """The upstream model of a configuration, with upstream's own initial weights, or none on the meta device."""
    return importlib.import_module(f".{family.replace('-', '_')}", __name__).Reference(config)
