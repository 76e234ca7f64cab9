"""What stands around the cells as PyTorch operators, each of which the exporter writes as one node of `ai.xlstm`.

As `eager.py` has the cells: the eager implementation is what definitions and kernels are held against, in the dtype of
the weights (float32; float64 for checks). N = B S positions stand one under the other, row after row; `lengths` (B)
tells B, and without it S is 1. What comes out at padding means nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _rows(x: Tensor, lengths: Tensor | None) -> tuple[int, int]:
    """B and S of x (N, ...)."""
    batch = x.shape[0] if lengths is None else lengths.shape[0]
    return batch, x.shape[0] // batch


@torch.library.custom_op("xlstm::causal_conv", mutates_args=())
def causal_conv(
    x: Tensor, window: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution with its window as state, then SiLU.

    Args:
        x: (N, D).
        window: (B, K - 1, D), what stands before the first position, the newest last; all zeros on reset.
        weight, bias: (K, D), (D).
        lengths: (B) int32; the next window is that before position lengths[b].

    Returns:
        y (N, D) and the next window.
    """
    batch, sequence = _rows(x, lengths)
    columns = torch.cat([window, x.reshape(batch, sequence, -1)], 1)
    y = F.silu((columns.unfold(1, weight.shape[0], 1) * weight.T).sum(-1) + bias)
    if lengths is None:
        return y.reshape(x.shape), columns[:, 1:].clone()
    index = lengths.long()[:, None] + torch.arange(window.shape[1])
    return y.reshape(x.shape), columns.gather(1, index[..., None].expand(window.shape))


@causal_conv.register_fake
def _(x, window, weight, bias, lengths=None):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), torch.empty_like(window)


@torch.library.custom_op("xlstm::mlstm_projections", mutates_args=())
def mlstm_projections(
    x_conv: Tensor,
    x: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    v_weight: Tensor,
    i_weight: Tensor,
    i_bias: Tensor,
    f_weight: Tensor,
    f_bias: Tensor,
    together: int,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What an mLSTM cell takes: block-diagonal projections, and from all of them the gates' pre-activations.

    Args:
        x_conv, x: (N, I): what queries and keys come from, and values.
        q_weight, k_weight, v_weight: (G, W, W), [block, out, in], G W = I, W small.
        i_weight, f_weight: (H, 3 I), of dtype T as what comes out; from [q, k, v] in T.
        i_bias, f_bias: (H) T.
        together: a divisor of G: so many blocks are put on the diagonal of a wider one where a runtime has no kernel
            for narrow ones. It changes no result.
        lengths: (B) int32, whose number alone matters.

    Returns:
        q, k, v (B, S, H, I / H) T, and i, f (B, S, H) T.
    """
    groups, width, _ = q_weight.shape

    def project(x: Tensor, weight: Tensor) -> Tensor:
        blocks = torch.einsum("ngi,goi->ngo", x.reshape(-1, groups, width), weight)
        return blocks.reshape(x.shape).to(i_weight.dtype)

    q, k, v = project(x_conv, q_weight), project(x_conv, k_weight), project(x, v_weight)
    qkv = torch.cat([q, k, v], -1).to(x.dtype)
    heads = (*_rows(x, lengths), i_weight.shape[0])
    gates = [(i_weight, i_bias), (f_weight, f_bias)]
    i, f = (F.linear(qkv, w.to(x.dtype), b.to(x.dtype)).reshape(heads).to(w.dtype) for w, b in gates)
    return q.reshape(*heads, -1), k.reshape(*heads, -1), v.reshape(*heads, -1), i, f


@mlstm_projections.register_fake
def _(  # type: ignore[no-untyped-def]
    x_conv, x, q_weight, k_weight, v_weight, i_weight, i_bias, f_weight, f_bias, together, lengths=None
):
    heads = (*_rows(x, lengths), i_weight.shape[0])
    qkv = [i_weight.new_empty(*heads, x.shape[1] // heads[2]) for _ in range(3)]
    return *qkv, i_weight.new_empty(heads), i_weight.new_empty(heads)


def _head_norm(h: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Layer norm over each head, (N, H D). Upstream: `MultiHeadLayerNorm`, a group norm with one group a head."""
    y = F.layer_norm(h.to(weight.dtype), (h.shape[-1],), eps=eps) * weight
    return y.reshape(-1, weight.numel())


@torch.library.custom_op("xlstm::gated_head_norm", mutates_args=())
def gated_head_norm(h: Tensor, weight: Tensor, gate: Tensor, eps: float) -> Tensor:
    """Sigmoid of the output gate times the norm over each head (xLSTM-7B, Beck et al. 2025).

    Args:
        h: (B, S, H, D) of a cell's dtype T.
        weight: (H, D).
        gate: (N, H D), pre-activations.
        eps: of the norm.

    Returns:
        (N, H D).
    """
    return torch.sigmoid(gate) * _head_norm(h, weight, eps)


@gated_head_norm.register_fake
def _(h, weight, gate, eps):  # type: ignore[no-untyped-def]
    return torch.empty_like(gate)


@torch.library.custom_op("xlstm::skip_gated_head_norm", mutates_args=())
def skip_gated_head_norm(h: Tensor, weight: Tensor, gate: Tensor, skip: Tensor, x: Tensor, eps: float) -> Tensor:
    """(norm over each head + skip x) SiLU(gate) (Beck et al. 2024, figure 11).

    Args:
        h: (B, S, H, D) of a cell's dtype T.
        weight: (H, D).
        gate: (N, H D), pre-activations.
        skip, x: (H D), (N, H D).
        eps: of the norm.

    Returns:
        (N, H D).
    """
    return (_head_norm(h, weight, eps) + skip * x) * F.silu(gate)


@skip_gated_head_norm.register_fake
def _(h, weight, gate, skip, x, eps):  # type: ignore[no-untyped-def]
    return torch.empty_like(gate)


@torch.library.custom_op("xlstm::valid_tokens", mutates_args=())
def valid_tokens(tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Tokens with zeros for the padding, whatever stands there: perhaps no token.

    Args:
        tokens: (B, S) int64, one at least. Without any, runtimes say that an index is out of bounds; further on some
            would crash (ONNX Runtime divides by zero in a batched product of no rows).
        lengths: (B) int32; None: there is no padding.

    Returns:
        (B, S) int64.
    """
    if lengths is None:
        return tokens.clone()
    return torch.where(torch.arange(tokens.shape[1]) < lengths[:, None], tokens, 0)


@valid_tokens.register_fake
def _(tokens, lengths=None):  # type: ignore[no-untyped-def]
    return torch.empty_like(tokens)


@torch.library.custom_op("xlstm::last_positions", mutates_args=())
def last_positions(x: Tensor, lengths: Tensor) -> Tensor:
    """Of x (N, D), the last position of each row, its first where it has none: (B, D). `lengths`: (B) int32."""
    batch, sequence = _rows(x, lengths)
    return x[torch.arange(batch) * sequence + (lengths.long() - 1).clamp(min=0)]


@last_positions.register_fake
def _(x, lengths):  # type: ignore[no-untyped-def]
    return x.new_empty(lengths.shape[0], x.shape[1])
