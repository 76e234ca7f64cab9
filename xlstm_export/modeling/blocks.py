"""One module for each kind of block: x (N, D) and states in, x and next states out, nothing in place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..operators.eager import mlstm_cell, slstm_cell
from ..operators.eager_layers import (
    gated_head_norm,
    mlstm_heads,
    mlstm_projections,
    skip_gated_head_norm,
    slstm_projections,
)
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
    added,
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
        up = self.proj_up(x).to(self.compute)  # what goes to the cell, and the output gate: each takes its half
        x_conv, window = self.conv(up, window, chunk)
        project = self._project_narrow if self.q_proj.is_narrow and self.q_proj.bias is None else self._project
        h, (C, n, m) = small_mlstm_cell(project(x_conv, up, chunk), (C, n, m), chunk.lengths)
        y = skip_gated_head_norm(h, self.head_norm.by_head, up, self.skip, x_conv, self.head_norm.eps)
        return self.proj_down(y), (C, n, m, window)

    def _project(self, x_conv: Tensor, x: Tensor, chunk: Chunk) -> tuple[Tensor, ...]:
        """q, k, v (B, S, H, DH) and i, f (B, S, H)."""
        heads = (chunk.batch, chunk.sequence, self.heads)
        q, k, v = self.q_proj(x_conv), self.k_proj(x_conv), self.v_proj(x[:, : x_conv.shape[1]])
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
        gates = self._project(x_conv, x, chunk)
        hidden, y, c, n, m = slstm_cell(
            gates, self.R, self.b, y, c, n, m, forget_clamp=self.forget_clamp, lengths=chunk.lengths
        )
        return self.head_norm(hidden), (y, c, n, m, *rest)

    def _project(self, x_conv: Tensor, x: Tensor, chunk: Chunk) -> Tensor:
        """(B, S, 4, H, DH)."""
        gates = (self.igate, self.fgate, self.zgate, self.ogate)
        weights = [gate.weight for gate in gates]
        if self.heads > 1 and weights[0].dtype == self.igate.out_dtype:
            return slstm_projections(x_conv, x, *weights, together=self.igate.together, lengths=chunk.lengths)
        early, late = block_diagonals(x_conv, *gates[:2]), block_diagonals(x, *gates[2:])
        joined = torch.cat([early, late], 1).to(self.igate.out_dtype)
        return joined.reshape(chunk.batch, chunk.sequence, 4, self.heads, self.head_dim)


class MLSTMLargeLayer(nn.Module):
    """mLSTM layer of xLSTM-7B (`xlstm/xlstm_large/model.py`)."""

    def __init__(self, dim: int, spec: MLSTMLargeBlock, dtypes: Dtypes):
        super().__init__()
        heads = spec.num_heads
        self.spec = spec
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
        inputs = torch.cat([self.q(x), self.k(x), self.v(x), self.ogate(x)], -1)
        gates = torch.cat([self.igate(x), self.fgate(x)], -1)
        heads, widths = self.spec.num_heads, (self.qk_head, self.v_head)
        *inputs, gate = mlstm_heads(inputs, gates, heads, *widths, lengths=chunk.lengths)
        h, *states = mlstm_cell(
            *inputs,
            *states,
            q_scale=self.qk_head**-0.5,
            k_scale=1.0,
            gate_soft_cap=self.spec.gate_soft_cap,
            eps=self.spec.cell_eps,
            lengths=chunk.lengths,
        )
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
        x, y, states = self.advance(x, None, states, chunk)
        return added(x, y), states

    def advance(self, x: Tensor, y: Tensor | None, states: States, chunk: Chunk) -> tuple[Tensor, Tensor, States]:
        """The block for x + y, where y is what the block before adds to x: adding and normalising are one operator.

        Returns the residual stream, what is still to be added to it, and the next states.
        """
        x, normal = self.norm(x, y)
        y, states = getattr(self, self.layer_name)(normal, states, chunk)
        if self.ffn is not None:
            x, normal = self.ffn_norm(x, y)
            y = self.ffn(normal)
        return x, y, states
