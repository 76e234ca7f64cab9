"""The whole model in step mode: one token (or one input vector) and all states in, logits and next states out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..checkpoints.architecture import Architecture
from ..checkpoints.tensors import LazyTensor
from .blocks import StepBlock
from .layers import FLOAT32, Dtypes, Embedding, Head, make_norm, parameter


@dataclass(frozen=True)
class StateSpec:
    """One recurrent state: `blocks.3.mlstm.C`, and its shape without the batch axis. Zeros reset it."""

    name: str
    shape: tuple[int, ...]

    @property
    def next_name(self) -> str:
        """Name of the output that is the next value of this state."""
        return f"{self.name}.next"


class StepModel(nn.Module):
    """Built from an architecture; the names of its parameters are the canonical tensor names (a tied head has none).

    Matrices have the dtype `dtypes.weights`; every other parameter, and every state, `dtypes.compute`.
    """

    def __init__(self, architecture: Architecture, dtypes: Dtypes = FLOAT32):
        super().__init__()
        dim = architecture.embedding_dim
        self.architecture, self.dtypes = architecture, dtypes
        if architecture.vocab_size is not None:
            self.embedding = Embedding(architecture.vocab_size, dim, dtypes)
        self.blocks = nn.ModuleList(StepBlock(dim, spec, dtypes) for spec in architecture.blocks)
        self.norm = None
        if architecture.final_norm:
            norm = architecture
            self.norm = make_norm(norm.final_norm, dim, norm.final_norm_eps, norm.final_norm_bias, dtypes)
        if architecture.vocab_size is not None:
            tied = architecture.tied_head
            weight = self.embedding.weight if tied else parameter(architecture.vocab_size, dim, dtype=dtypes.weights)
            self.head = Head(weight, architecture.logit_soft_cap, dtypes)
        self.states = tuple(
            StateSpec(f"blocks.{index}.{name}", shape)
            for index, block in enumerate(self.blocks)
            for name, shape in block.state_shapes.items()
        )

    def initial_states(self, batch: int) -> tuple[Tensor, ...]:
        """Zeros: the state before the first token, (batch, ...) each."""
        return tuple(torch.zeros(batch, *s.shape, dtype=self.dtypes.compute) for s in self.states)

    def load(self, tensors: Mapping[str, LazyTensor]) -> StepModel:
        """Copy the tensors in, cast to each parameter's dtype. For checks on models that fit into memory."""
        parameters = dict(self.named_parameters())
        if parameters.keys() != tensors.keys():
            raise KeyError(f"tensors and parameters differ: {sorted(parameters.keys() ^ tensors.keys())}")
        for name, parameter_ in parameters.items():
            parameter_.data.copy_(tensors[name].read())
        return self

    def forward(self, inputs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step.

        Args:
            inputs: tokens (B, 1) int64, or vectors (B, 1, D) for a block stack.
            states: in the order of `self.states`, (B, ...) each.

        Returns:
            logits (B, 1, V), or outputs (B, 1, D) for a block stack, in the compute dtype; then the next states.
        """
        has_vocabulary = self.architecture.vocab_size is not None
        if has_vocabulary:
            x = self.embedding(inputs)
        else:
            x = inputs.reshape(-1, self.architecture.embedding_dim).to(self.dtypes.compute)
        next_states: list[Tensor] = []
        for block in self.blocks:
            count = len(block.state_shapes)
            at = len(next_states)
            x, block_states = block(x, states[at : at + count])
            next_states += block_states
        if self.norm is not None:
            x = self.norm(x)
        if has_vocabulary:
            x = self.head(x)
        return x.reshape(-1, 1, x.shape[-1]), *next_states
