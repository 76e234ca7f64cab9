"""One module for each kind of block: x (N, D) and states in, x and next states out, nothing in place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..operators.eager import mlstm_cell, slstm_cell
from ..operators.eager_layers import gated_head_norm, mlstm_projections, skip_gated_head_norm
from .architecture import Block, MLSTMBlock, MLSTMLargeBlock, SLSTMBlock
from .layers import (
    BlockDiagonalLinear,
    CausalConv,
    Chunk,
    Dtypes,
    FeedForward,
    HeadNorm,
    LayerNorm,
    Linear,
    RMSNorm,
    block_diagonals,
    make_norm,
    parameter,
)

States = tuple[Tensor, ...]


def small_mlstm_cell(inputs: tuple[Tensor, ...], states: States, lengths: Tensor | None) -> tuple[Tensor, States]:
    """The cell as the `xlstm` package has it (`xlstm/blocks/mlstm/backends.py`).

    Inputs q, k, v (B, S, H, DH) and gates i, f (B, S, H); output h (B, S, H, DH) and the next states.
    """
    h, *next_states = mlstm_cell(
        *inputs,
        *states,
        q_scale=1.0,
        k_scale=inputs[0].shape[-1] ** -0.5,
        gate_soft_cap=0.0,
        eps=1e-6,
        lengths=lengths,
    )
    return h, tuple(next_states)


class MLSTMLayer(nn.Module):
    """mLSTM layer of the `xlstm` package (`xlstm/blocks/mlstm/layer.py`)."""

    def __init__(self, dim: int, spec: MLSTMBlock, dtypes: Dtypes):
        super().__init__()
        inner, heads = spec.inner_dim, spec.num_heads
        groups = inner // spec.qkv_block_size
        head_dim = inner // heads
        self.heads, self.head_dim, self.compute = heads, head_dim, dtypes.compute
        self.proj_up = Linear(dim, 2 * inner, spec.bias, dtypes)
        self.conv = CausalConv(inner, spec.conv_kernel, dtypes)
        self.q_proj = BlockDiagonalLinear(groups, spec.qkv_block_size, spec.bias, dtypes)
        self.k_proj = BlockDiagonalLinear(groups, spec.qkv_block_size, spec.bias, dtypes)
        self.v_proj = BlockDiagonalLinear(groups, spec.qkv_block_size, spec.bias, dtypes)
        self.igate = Linear(3 * inner, heads, True, dtypes)
        self.fgate = Linear(3 * inner, heads, True, dtypes)
        self.head_norm = HeadNorm(heads, head_dim, 1e-5, False, dtypes)
        self.skip = parameter(inner, dtype=dtypes.compute)
        self.proj_down = Linear(inner, dim, spec.bias, dtypes)
        self.state_shapes = {
            "C": (heads, head_dim, head_dim),
            "n": (heads, head_dim),
            "m": (heads,),
            "conv": (spec.conv_kernel - 1, inner),
        }

    def forward(self, x: Tensor, states: States, chunk: Chunk) -> tuple[Tensor, States]:
        C, n, m, window = states
        x_m, z = self.proj_up(x).to(self.compute).chunk(2, -1)
        x_conv, window = self.conv(x_m, window, chunk)
        project = self._project_narrow if self.q_proj.is_narrow and self.q_proj.bias is None else self._project
        h, (C, n, m) = small_mlstm_cell(project(x_conv, x_m, chunk), (C, n, m), chunk.lengths)
        y = skip_gated_head_norm(h, self.head_norm.by_head, z, self.skip, x_conv, self.head_norm.eps)
        return self.proj_down(y), (C, n, m, window)

    def _project(self, x_conv: Tensor, x: Tensor, chunk: Chunk) -> tuple[Tensor, ...]:
        """q, k, v (B, S, H, DH) and i, f (B, S, H)."""
        heads = (chunk.batch, chunk.sequence, self.heads)
        q, k, v = self.q_proj(x_conv), self.k_proj(x_conv), self.v_proj(x)
        qkv = torch.cat([q, k, v], -1)
        gates = (gate(qkv).reshape(heads) for gate in (self.igate, self.fgate))
        return *(part.reshape(*heads, self.head_dim) for part in (q, k, v)), *gates

    def _project_narrow(self, x_conv: Tensor, x: Tensor, chunk: Chunk) -> tuple[Tensor, ...]:
        """The same, as one operator."""
        return mlstm_projections(
            x_conv,
            x,
            self.q_proj.weight,
            self.k_proj.weight,
            self.v_proj.weight,
            self.igate.weight,
            self.igate.bias,
            self.fgate.weight,
            self.fgate.bias,
            together=self.q_proj.together,
            lengths=chunk.lengths,
        )


class SLSTMLayer(nn.Module):
    """sLSTM layer (`xlstm/blocks/slstm/layer.py`, `tirex/models/slstm/layer.py`)."""

    def __init__(self, dim: int, spec: SLSTMBlock, dtypes: Dtypes):
        super().__init__()
        heads, head_dim = spec.num_heads, dim // spec.num_heads
        self.heads, self.head_dim, self.forget_clamp = heads, head_dim, spec.forget_clamp
        self.conv = CausalConv(dim, spec.conv_kernel, dtypes) if spec.conv_kernel else None
        self.igate = BlockDiagonalLinear(heads, head_dim, False, dtypes)
        self.fgate = BlockDiagonalLinear(heads, head_dim, False, dtypes)
        self.zgate = BlockDiagonalLinear(heads, head_dim, False, dtypes)
        self.ogate = BlockDiagonalLinear(heads, head_dim, False, dtypes)
        self.R = parameter(heads, 4, head_dim, head_dim, dtype=dtypes.weights)
        self.b = parameter(4, heads, head_dim, dtype=dtypes.compute)
        self.head_norm = HeadNorm(heads, head_dim, spec.head_norm_eps, False, dtypes)
        self.state_shapes = {name: (heads, head_dim) for name in "ycnm"}
        if spec.conv_kernel:
            self.state_shapes["conv"] = (spec.conv_kernel - 1, dim)

    def forward(self, x: Tensor, states: States, chunk: Chunk) -> tuple[Tensor, States]:
        y, c, n, m, *rest = states
        x_conv = x
        if self.conv is not None:
            x_conv, window = self.conv(x, rest[0], chunk)
            rest = [window]
        early, late = block_diagonals(x_conv, self.igate, self.fgate), block_diagonals(x, self.zgate, self.ogate)
        gates = torch.cat([early, late], 1).to(self.igate.out_dtype)
        gates = gates.reshape(chunk.batch, chunk.sequence, 4, self.heads, self.head_dim)
        hidden, y, c, n, m = slstm_cell(
            gates, self.R, self.b, y, c, n, m, forget_clamp=self.forget_clamp, lengths=chunk.lengths
        )
        return self.head_norm(hidden), (y, c, n, m, *rest)


class MLSTMLargeLayer(nn.Module):
    """mLSTM layer of xLSTM-7B (`xlstm/xlstm_large/model.py`)."""

    def __init__(self, dim: int, spec: MLSTMLargeBlock, dtypes: Dtypes):
        super().__init__()
        heads = spec.num_heads
        self.spec, self.compute = spec, dtypes.compute
        self.qk_head, self.v_head = spec.qk_dim // heads, spec.v_dim // heads
        self.q = Linear(dim, spec.qk_dim, spec.bias, dtypes)
        self.k = Linear(dim, spec.qk_dim, spec.bias, dtypes)
        self.v = Linear(dim, spec.v_dim, spec.bias, dtypes)
        self.ogate = Linear(dim, spec.v_dim, spec.bias, dtypes)
        self.igate = Linear(dim, heads, True, dtypes)
        self.fgate = Linear(dim, heads, True, dtypes)
        self.head_norm = HeadNorm(heads, self.v_head, spec.norm_eps, spec.bias, dtypes)
        self.out_proj = Linear(spec.v_dim, dim, spec.bias, dtypes)
        self.state_shapes = {"C": (heads, self.qk_head, self.v_head), "n": (heads, self.qk_head), "m": (heads,)}

    def forward(self, x: Tensor, states: States, chunk: Chunk) -> tuple[Tensor, States]:
        heads = (chunk.batch, chunk.sequence, self.spec.num_heads)
        h, *states = mlstm_cell(
            self.q(x).reshape(*heads, self.qk_head),
            self.k(x).reshape(*heads, self.qk_head),
            self.v(x).reshape(*heads, self.v_head),
            self.igate(x).reshape(heads),
            self.fgate(x).reshape(heads),
            *states,
            q_scale=self.qk_head**-0.5,
            k_scale=1.0,
            gate_soft_cap=self.spec.gate_soft_cap,
            eps=self.spec.cell_eps,
            lengths=chunk.lengths,
        )
        gate = self.ogate(x).to(self.compute)
        if self.head_norm.bias is None:
            y = gated_head_norm(h, self.head_norm.by_head, gate, self.head_norm.eps)
        else:
            y = torch.sigmoid(gate) * self.head_norm(h)
        return self.out_proj(y), tuple(states)


class ResidualBlock(nn.Module):
    """Pre-norm residual block: x += cell(norm(x)), then x += ffn(ffn_norm(x)) where there is one."""

    norm: nn.Module
    mlstm: nn.Module
    ffn_norm: nn.Module

    def __init__(self, dim: int, spec: Block, dtypes: Dtypes):
        super().__init__()
        feed_forward = None
        match spec:
            case MLSTMBlock():
                self.norm = LayerNorm(dim, 1e-5, False, dtypes)
                self.mlstm = MLSTMLayer(dim, spec, dtypes)
            case SLSTMBlock():
                self.norm = make_norm(spec.norm, dim, spec.norm_eps, False, dtypes)
                self.slstm = SLSTMLayer(dim, spec, dtypes)
                feed_forward = spec.feed_forward
                if feed_forward:
                    self.ffn_norm = make_norm(spec.norm, dim, spec.norm_eps, False, dtypes)
            case MLSTMLargeBlock():
                self.norm = RMSNorm(dim, spec.norm_eps, spec.bias, dtypes)
                self.mlstm = MLSTMLargeLayer(dim, spec, dtypes)
                self.ffn_norm = RMSNorm(dim, spec.norm_eps, spec.bias, dtypes)
                feed_forward = spec.feed_forward
        self.layer_name = "slstm" if isinstance(spec, SLSTMBlock) else "mlstm"
        self.ffn = FeedForward(dim, feed_forward, dtypes) if feed_forward else None

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the states by name within the block (`mlstm.C`), without the batch axis, in their order."""
        layer = getattr(self, self.layer_name)
        return {f"{self.layer_name}.{name}": shape for name, shape in layer.state_shapes.items()}

    def forward(self, x: Tensor, states: States, chunk: Chunk) -> tuple[Tensor, States]:
        y, states = getattr(self, self.layer_name)(self.norm(x), states, chunk)
        x = x + y.to(x.dtype)
        if self.ffn is not None:
            x = x + self.ffn(self.ffn_norm(x)).to(x.dtype)
        return x, states
