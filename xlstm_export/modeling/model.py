"""The whole model: tokens (or vectors) and all states in, logits (or vectors) and next states out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..operators.eager_layers import last_positions, valid_tokens
from .architecture import Architecture
from .blocks import ResidualBlock
from .layers import FLOAT32, Chunk, Dtypes, Embedding, Head, PatchProjection, added, make_norm, parameter


@dataclass(frozen=True)
class StateSpec:
    """One recurrent state: `blocks.3.mlstm.C`, and its shape without the batch axis. Zeros reset it."""

    name: str
    shape: tuple[int, ...]

    @property
    def next_name(self) -> str:
        """Name of the output that is the next value of this state."""
        return f"{self.name}.next"


class Readable(Protocol):
    """A tensor somewhere: in a file, or made when it is asked for."""

    def read(self) -> Tensor:
        """The whole tensor."""


class Model(nn.Module):
    """Built from an architecture; the names of its parameters are the canonical tensor names (a tied head has none).

    Matrices have the dtype `dtypes.weights`; every other parameter, and every state, `dtypes.compute`.
    `all_positions`: outputs at every position, not at each row's last one only.
    """

    def __init__(self, architecture: Architecture, dtypes: Dtypes = FLOAT32, all_positions: bool = False):
        super().__init__()
        dim = architecture.embedding_dim
        self.architecture, self.dtypes, self.all_positions = architecture, dtypes, all_positions
        if architecture.vocab_size is not None:
            self.embedding = Embedding(architecture.vocab_size, dim, dtypes)
        if patches := architecture.patches:
            hidden, act = patches.hidden_dim, patches.activation
            self.patch_in = PatchProjection(architecture.input_width, hidden, dim, act, dtypes)
            hidden = patches.out_hidden_dim or hidden
            self.patch_out = PatchProjection(dim, hidden, architecture.output_width, act, dtypes)
        blocks = [ResidualBlock(dim, spec, dtypes) for spec in architecture.blocks]
        self.blocks = nn.ModuleList(blocks)
        self.norm = None
        if architecture.final_norm:
            eps, bias = architecture.final_norm_eps, architecture.final_norm_bias
            self.norm = make_norm(architecture.final_norm, dim, eps, bias, dtypes)
        if architecture.vocab_size is not None and architecture.has_head:
            tied = architecture.tied_head
            weight = self.embedding.weight if tied else parameter(architecture.vocab_size, dim, dtype=dtypes.weights)
            self.head = Head(weight, architecture.logit_soft_cap, dtypes)
        self.states = tuple(
            StateSpec(f"blocks.{index}.{name}", shape)
            for index, block in enumerate(blocks)
            for name, shape in block.state_shapes.items()
        )
        self._state_counts = [len(block.state_shapes) for block in blocks]

    def initial_states(self, batch: int) -> tuple[Tensor, ...]:
        """Zeros: the state before the first token, (batch, ...) each."""
        return tuple(torch.zeros(batch, *s.shape, dtype=self.dtypes.compute) for s in self.states)

    def load(self, tensors: Mapping[str, Readable]) -> Model:
        """Copy the tensors in, cast to each parameter's dtype. For checks on models that fit into memory."""
        parameters = dict(self.named_parameters())
        if parameters.keys() != tensors.keys():
            raise KeyError(f"tensors and parameters differ: {sorted(parameters.keys() ^ tensors.keys())}")
        for name, parameter_ in parameters.items():
            parameter_.data.copy_(tensors[name].read())
        return self

    def forward(self, inputs: Tensor, *states: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        """Advance every row by its positions.

        Args:
            inputs: tokens (B, S) int64, or vectors: (B, S, D) for a block stack, (B, S, 2 P) for a forecaster.
            states: in the order of `self.states`, (B, ...) each.
            lengths: (B) int32: row b advances by its first lengths[b] positions; the rest is padding, and a row of
                length 0 keeps its states. None: one step, S = 1.

        Returns:
            logits (B, 1, V) at each row's last position, or (B, S, V) with `all_positions`, in the compute dtype; of
            a model without head, hidden states of width D in their place; of a forecaster, quantiles of width Q P.
            Those of padding mean nothing. Then the next states.
        """
        chunk = Chunk(inputs.shape[0], inputs.shape[1], lengths)
        if self.architecture.vocab_size is not None:
            x = self.embedding(valid_tokens(inputs, lengths))
        else:
            x = chunk.valid(inputs).reshape(-1, self.architecture.input_width).to(self.dtypes.compute)
            if self.architecture.patches:
                x = self.patch_in(x)
        next_states: list[Tensor] = []
        y: Tensor | None = None  # what the last block adds to x
        for block, count in zip(self.blocks, self._state_counts, strict=True):
            assert isinstance(block, ResidualBlock)
            at = len(next_states)
            x, y, block_states = block.advance(x, y, states[at : at + count], chunk)
            next_states += block_states
        x = added(x, y) if self.norm is None else self.norm(x, y)[1]
        outputs = chunk.sequence
        if lengths is not None and not self.all_positions:  # the head is the most work a position
            x, outputs = last_positions(x, lengths), 1
        if self.architecture.gives_logits:
            return self.head(x, chunk.batch, outputs), *next_states
        if self.architecture.patches:
            x = self.patch_out(x)
        return x.reshape(chunk.batch, outputs, x.shape[-1]), *next_states
