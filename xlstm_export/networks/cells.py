"""Upstream's bare cells, as users put them into layers of their own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..modeling.blocks import small_mlstm_cell
from ..modeling.layers import Chunk, Dtypes, HeadNorm, Linear, parameter
from ..operators.eager import slstm_cell
from .lifted import Lifted, States, TapeHolder, lifted, mlstm_start, slstm_start


class MLSTMCell(nn.Module):
    """`mLSTMCell` of the `xlstm` package: gates from q, k, v, the cell, and its norm (`xlstm/blocks/mlstm/cell.py`)."""

    def __init__(self, inner_dim: int, heads: int, dtypes: Dtypes):
        super().__init__()
        head_dim, self.heads = inner_dim // heads, heads
        self.igate = Linear(3 * inner_dim, heads, True, dtypes)
        self.fgate = Linear(3 * inner_dim, heads, True, dtypes)
        self.head_norm = HeadNorm(heads, head_dim, 1e-5, False, dtypes)
        self.state_shapes = {"C": (heads, head_dim, head_dim), "n": (heads, head_dim), "m": (heads,)}

    def forward(self, qkv: Tensor, states: States, chunk: Chunk) -> tuple[Tensor, States]:
        """qkv (N, 3 * D) to h (N, D)."""
        heads = (chunk.batch, chunk.sequence, self.heads)
        q, k, v = (x.reshape(*heads, -1) for x in qkv.chunk(3, -1))
        i, f = (gate(qkv).reshape(heads) for gate in (self.igate, self.fgate))
        h, states = small_mlstm_cell((q, k, v, i, f), states, chunk.lengths)
        return self.head_norm(h), states


class SLSTMCell(nn.Module):
    """`sLSTMCell` of the `xlstm` package (`xlstm/blocks/slstm/cell.py`), and of TiRex."""

    def __init__(self, dim: int, heads: int, forget_clamp: float, dtypes: Dtypes):
        super().__init__()
        self.heads, self.head_dim, self.forget_clamp = heads, dim // heads, forget_clamp
        self.R = parameter(heads, 4, self.head_dim, self.head_dim, dtype=dtypes.weights)
        self.b = parameter(4, heads, self.head_dim, dtype=dtypes.compute)
        self.state_shapes = {name: (heads, self.head_dim) for name in "ycnm"}

    def forward(self, gates: Tensor, states: States, chunk: Chunk) -> tuple[Tensor, States]:
        """Gates (N, 4 * D), [gate, head, unit], to y (N, D)."""
        gates = gates.reshape(chunk.batch, chunk.sequence, 4, self.heads, self.head_dim)
        hidden, *states_ = slstm_cell(
            gates, self.R, self.b, *states, forget_clamp=self.forget_clamp, lengths=chunk.lengths
        )
        return hidden.reshape(-1, self.heads * self.head_dim), tuple(states_)


class LiftedMLSTMCell(Lifted):
    """`forward(q, k, v)` → h, and `step(q, k, v, mlstm_state)` → (h, state)."""

    @lifted
    def forward(self, q: Tensor, k: Tensor, v: Tensor, **_: object) -> Tensor:
        return self.run(torch.cat([q, k, v], -1))[0]

    @lifted
    def step(self, q: Tensor, k: Tensor, v: Tensor, mlstm_state: Any = None, **_: object) -> tuple[Tensor, States]:
        h, states = self.run(torch.cat([q, k, v], -1), mlstm_start(mlstm_state))
        return h, self.give(states["C"], states["n"][..., None], states["m"][..., None, None])


class LiftedSLSTMCell(Lifted):
    """`forward(input, state)` → (output, state); layouts as the cell's configuration has them, or as TiRex' are."""

    def __init__(self, path: str, original: nn.Module, holder: TapeHolder, step: nn.Module):
        super().__init__(path, original, holder, step)
        config: Any = original.config
        layouts = getattr(config, "input_shape", "BSGNH"), getattr(config, "output_shape", "BNSH")
        self.layouts = SimpleNamespace(input=layouts[0], output=layouts[1], heads=config.num_heads)

    @lifted
    def forward(self, input: Tensor, state: Tensor | None = None, lengths: object = None) -> tuple[Tensor, Tensor]:
        y, states = self.run(self._gates(input), slstm_start(state, self.layouts.heads))
        (cell,) = self.give(torch.stack([states[name].flatten(1) for name in "ycnm"]))
        return self._output(y), cell

    step = forward

    def _gates(self, x: Tensor) -> Tensor:
        """To (B, S, 4 * D), gate after gate, as `sLSTMCellBase._permute_input` reads it."""
        layout = self.layouts.input
        if layout.startswith("S"):
            x = x.transpose(0, 1)
        if layout in ("BSNGH", "SBNGH"):
            x = x.reshape(*x.shape[:2], self.layouts.heads, 4, -1).transpose(2, 3).flatten(2)
        return x

    def _output(self, y: Tensor) -> Tensor:
        """From (B, S, D), as `sLSTMCellBase._permute_output` writes it."""
        layout = self.layouts.output
        if layout in ("BNSH", "SBNH"):
            y = y.reshape(*y.shape[:2], self.layouts.heads, -1)
        return {"BSH": lambda: y, "SBH": lambda: y.transpose(0, 1), "BNSH": lambda: y.transpose(1, 2)}.get(
            layout, lambda: y.transpose(0, 1)
        )()
