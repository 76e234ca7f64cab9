"""The layers around the cells, for tracing.

Activations between layers are (N, D) with N = B * S, so that every projection is one `Gemm` in ONNX, which becomes a
`Linear` or part of one.
A layer computes in the dtype of its own weights: projections in the model's dtype, everything else
(norms, convolution, gates, residual stream) in float32, whatever the model's dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..operators.eager_layers import add_layer_norm, add_rms_norm, causal_conv, geglu, head_norm, soft_cap, swiglu
from .architecture import Activation, Norm
from .architecture import FeedForward as FeedForwardSpec

NARROW_BLOCK = 32
"""Block-diagonal projections with blocks narrower than this are kept in the compute dtype, and widened up to it."""


@dataclass(frozen=True)
class Chunk:
    """The positions of one pass: `batch` rows of `sequence` positions, B and S.

    `lengths` (B) int32: how many of a row's positions are there; the rest is padding. None: step mode, S = 1.
    """

    batch: int
    sequence: int
    lengths: Tensor | None

    def valid(self, inputs: Tensor, axis: int = 1) -> Tensor:
        """Inputs (B, S, ...), S at `axis`, with zeros for the padding, whatever stands there: no token, or NaN."""
        # 0, found where there is a row and a position: without, runtimes say that an index is out of bounds. Some would
        # crash further on (ONNX Runtime divides by zero in a batched product of no rows).
        zero = torch.arange(self.batch)[0] + torch.arange(self.sequence)[0]
        if self.lengths is None:
            return inputs + zero
        valid = torch.arange(self.sequence) < self.lengths[:, None]
        batch, sequence = valid.shape
        shape = (batch, *[1] * (axis - 1), sequence, *[1] * (inputs.dim() - axis - 1))
        return torch.where(valid.reshape(shape), inputs, zero.to(inputs.dtype))


@dataclass(frozen=True)
class Dtypes:
    """`weights`: dtype of projection matrices (float32, float16, bfloat16; float64 for checks); `compute`: all else."""

    weights: torch.dtype = torch.float32
    compute: torch.dtype = torch.float32


FLOAT32 = Dtypes()


def parameter(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape, dtype=dtype), requires_grad=False)


class Linear(nn.Module):
    """y = W x + b with W (out, in). Input (N, in), output (N, out) in the weights' dtype."""

    def __init__(self, in_dim: int, out_dim: int, bias: bool, dtypes: Dtypes):
        super().__init__()
        self.weight = parameter(out_dim, in_dim, dtype=dtypes.weights)
        self.bias = parameter(out_dim, dtype=dtypes.weights) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class Embedding(nn.Module):
    """Rows of W (V, D) by token. Input tokens (B, S) int64, output (B * S, D) in the compute dtype."""

    def __init__(self, vocab_size: int, dim: int, dtypes: Dtypes):
        super().__init__()
        self.weight = parameter(vocab_size, dim, dtype=dtypes.weights)
        self.compute = dtypes.compute

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens.reshape(-1), self.weight).to(self.compute)


class Head(nn.Module):
    """Logits, soft-capped when asked: cap * tanh(W x / cap). Input (B * S, D), output (B, S, V), compute dtype."""

    def __init__(self, weight: nn.Parameter, soft_cap: float, dtypes: Dtypes):
        super().__init__()
        self.weight = weight
        self.soft_cap, self.compute = soft_cap, dtypes.compute

    def forward(self, x: Tensor, batch: int, sequence: int) -> Tensor:
        logits = F.linear(x.to(self.weight.dtype), self.weight).reshape(batch, sequence, -1)
        return (soft_cap(logits, self.soft_cap) if self.soft_cap else logits).to(self.compute)


class PatchProjection(nn.Module):
    """output(act(hidden(x))) + residual(x): either end of a forecaster (`tirex/models/tirex.py`, `ResidualBlock`).

    Input (N, in) of any dtype, output (N, out) in the compute dtype.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, activation: Activation, dtypes: Dtypes):
        super().__init__()
        self.activation = _ACTIVATIONS[activation]
        self.hidden = Linear(in_dim, hidden_dim, True, dtypes)
        self.output = Linear(hidden_dim, out_dim, True, dtypes)
        self.residual = Linear(in_dim, out_dim, True, dtypes)
        self.compute = dtypes.compute

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.hidden(x).to(self.compute))
        return self.output(hidden).to(self.compute) + self.residual(x).to(self.compute)


def blocks_together(num_blocks: int, block_dim: int) -> int:
    """How many narrow blocks make a wider one: a divisor of their number, and two wide ones at least where it can be.

    TensorRT-RTX 1.7 has an internal error on a batch of one matrix.
    """
    most = max(1, min(NARROW_BLOCK // block_dim, num_blocks // 2))
    return max(n for n in range(1, most + 1) if num_blocks % n == 0)


class BlockDiagonalLinear(nn.Module):
    """Block-diagonal projection, W (G, out, in); input (N, G * in), output (N, G * out) in the weights' dtype T.

    The upstream name is `LinearHeadwiseExpand`. Narrow blocks (4 x 4) are put side by side on the diagonals of wider
    ones, which runtimes fold when they load the graph: one batch of small products instead of many tiny ones.
    """

    def __init__(self, num_blocks: int, block_dim: int, bias: bool, dtypes: Dtypes):
        super().__init__()
        self.is_narrow = block_dim < NARROW_BLOCK
        self.together = blocks_together(num_blocks, block_dim)
        self.out_dtype = dtypes.weights
        dtype = dtypes.compute if self.is_narrow else dtypes.weights
        self.weight = parameter(num_blocks, block_dim, block_dim, dtype=dtype)
        self.bias = parameter(num_blocks * block_dim, dtype=dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = block_diagonals(x, self).reshape(-1, self.weight.shape[0] * self.weight.shape[1])
        return (y if self.bias is None else y + self.bias).to(self.out_dtype)

    def transposed_blocks(self) -> Tensor:
        """(G / together, together * in, together * out)."""
        blocks, n = self.weight.transpose(1, 2), self.together
        if n == 1:
            return blocks
        _, width, _ = blocks.shape
        diagonal = torch.eye(n, dtype=blocks.dtype).reshape(n, 1, n, 1)
        return (blocks.reshape(-1, n, width, 1, width) * diagonal).reshape(-1, n * width, n * width)


def block_diagonals(x: Tensor, *layers: BlockDiagonalLinear) -> Tensor:
    """P block-diagonal projections of one x (N, D), of one shape and without their biases, in one product.

    Returns (N, P, G, D / G), of each projection D values, in the dtype of their `weight`.
    """
    blocks = torch.cat([layer.transposed_blocks() for layer in layers], -1)
    groups, width, _ = blocks.shape
    x = x.to(blocks.dtype)
    # TensorRT-RTX 1.7 has an internal error on a batch of one matrix.
    y = x @ blocks[0] if groups == 1 else x.reshape(-1, groups, width).transpose(0, 1) @ blocks
    return y.reshape(groups, -1, len(layers), width).permute(1, 2, 0, 3)


class _Norm(nn.Module):
    """A norm of x (N, D), or of x + y, where y has any dtype. Returns x (+ y), and its norm in the compute dtype."""

    def __init__(self, dim: int, eps: float, bias: bool, dtypes: Dtypes):
        super().__init__()
        self.weight = parameter(dim, dtype=dtypes.compute)
        self.bias = parameter(dim, dtype=dtypes.compute) if bias else None
        self.eps = eps

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if y is not None and self.bias is None and x.dtype == self.weight.dtype:
            normal, x = self.add(x, y)
            return x, normal
        x = added(x, y)
        return x, self.normalise(x.to(self.weight.dtype))

    def add(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The norm of x + y without a bias, and x + y, as one operator."""
        raise NotImplementedError

    def normalise(self, x: Tensor) -> Tensor:
        """x and the result in the compute dtype."""
        raise NotImplementedError


class LayerNorm(_Norm):
    """(x - mean) / sqrt(var + eps) * weight (+ bias)."""

    def add(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return add_layer_norm(x, y, self.weight, self.eps)

    def normalise(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


class RMSNorm(_Norm):
    """x / sqrt(mean(x^2) + eps) * weight (+ bias)."""

    def add(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return add_rms_norm(x, y, self.weight, self.eps)

    def normalise(self, x: Tensor) -> Tensor:
        # Written as ONNX Runtime's fusion to one normalisation kernel expects it.
        normal = x / torch.sqrt(x.pow(2.0).mean(-1, keepdim=True) + self.eps) * self.weight
        return normal if self.bias is None else normal + self.bias


def added(x: Tensor, y: Tensor | None) -> Tensor:
    """The residual stream, and what a layer adds to it."""
    return x if y is None else x + y.to(x.dtype)


def make_norm(kind: Norm, dim: int, eps: float, bias: bool, dtypes: Dtypes) -> nn.Module:
    return {"layer_norm": LayerNorm, "rms_norm": RMSNorm}[kind](dim, eps, bias, dtypes)


class HeadNorm(nn.Module):
    """Layer norm over each head, then one weight over all heads. Input (B, S, H, DH), output (N, H * DH).

    Upstream: `MultiHeadLayerNorm`, a group norm with one group a head.

    Attributes:
        by_head: the weight, (H, DH).
    """

    def __init__(self, num_heads: int, head_dim: int, eps: float, bias: bool, dtypes: Dtypes):
        super().__init__()
        self.weight = parameter(num_heads * head_dim, dtype=dtypes.compute)
        self.bias = parameter(num_heads * head_dim, dtype=dtypes.compute) if bias else None
        self.heads, self.eps = num_heads, eps

    @property
    def by_head(self) -> Tensor:
        return self.weight.reshape(self.heads, -1)

    def forward(self, h: Tensor) -> Tensor:
        y = head_norm(h, self.by_head, self.eps)
        return y if self.bias is None else y + self.bias


class CausalConv(nn.Module):
    """Depthwise causal convolution with its window as state, then SiLU.

    Input x (N, X), whose first D columns count, and window (B, K - 1, D), the newest last; output (N, D) and the next
    window, compute dtype.
    Upstream keeps K columns, of which the first is dead after each shift.
    """

    def __init__(self, dim: int, kernel: int, dtypes: Dtypes):
        super().__init__()
        self.weight = parameter(kernel, dim, dtype=dtypes.compute)
        self.bias = parameter(dim, dtype=dtypes.compute)

    def forward(self, x: Tensor, window: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
        return causal_conv(x.to(self.weight.dtype), window, self.weight, self.bias, lengths=chunk.lengths)


_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "relu^2": lambda x: torch.square(F.relu(x)),
    "sigmoid": torch.sigmoid,
    "swish": F.silu,
    "selu": F.selu,
}


class FeedForward(nn.Module):
    """down(act(gate(x)) * up(x)); input and output (N, D)."""

    def __init__(self, dim: int, spec: FeedForwardSpec, dtypes: Dtypes):
        super().__init__()
        if spec.fused_gate_up:
            self.proj_gate_up = Linear(dim, 2 * spec.hidden_dim, spec.bias, dtypes)
        else:
            self.proj_gate = Linear(dim, spec.hidden_dim, spec.bias, dtypes)
            self.proj_up = Linear(dim, spec.hidden_dim, spec.bias, dtypes)
        self.proj_down = Linear(spec.hidden_dim, dim, spec.bias, dtypes)
        self.fused, self.activation = spec.fused_gate_up, spec.activation
        self.compute = dtypes.compute

    def forward(self, x: Tensor) -> Tensor:
        gate_up = self.proj_gate_up(x) if self.fused else torch.cat([self.proj_gate(x), self.proj_up(x)], -1)
        if self.activation == "gelu":
            return self.proj_down(geglu(gate_up))
        if self.activation == "swish":
            return self.proj_down(swiglu(gate_up))
        gate, up = gate_up.to(self.compute).chunk(2, -1)
        return self.proj_down(_ACTIVATIONS[self.activation](gate) * up)
