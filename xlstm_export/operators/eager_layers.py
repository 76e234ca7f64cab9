"""What stands around the cells as PyTorch operators, each of which the exporter writes as one node of `ai.xlstm`.

As `eager.py` has the cells: the eager implementation is what definitions and kernels are held against, in the dtype of
the weights (float32; float64 for checks). N = B S positions stand one under the other, row after row; `lengths` (B)
tells B, and without it S is 1. What comes out at padding means nothing.
"""

from __future__ import annotations

from collections.abc import Callable

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
        x: (N, X), whose first D columns are convolved.
        window: (B, K - 1, D), what stands before the first position, the newest last; all zeros on reset.
        weight, bias: (K, D), (D).
        lengths: (B) int32; the next window is that before position lengths[b].

    Returns:
        y (N, D) and the next window.
    """
    (batch, sequence), width = _rows(x, lengths), bias.shape[0]
    columns = torch.cat([window, x[:, :width].reshape(batch, sequence, width)], 1)
    y = F.silu((columns.unfold(1, weight.shape[0], 1) * weight.T).sum(-1) + bias)
    if lengths is None:
        return y.reshape(-1, width), columns[:, 1:].clone()
    index = lengths.long()[:, None] + torch.arange(window.shape[1])
    return y.reshape(-1, width), columns.gather(1, index[..., None].expand(window.shape))


@causal_conv.register_fake
def _(x, window, weight, bias, lengths=None):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], bias.shape[0]), torch.empty_like(window)


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
        x_conv: (N, I), what queries and keys come from.
        x: (N, X), whose first I columns are what values come from.
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
        return blocks.reshape(x_conv.shape).to(i_weight.dtype)

    q, k, v = project(x_conv, q_weight), project(x_conv, k_weight), project(x[:, : x_conv.shape[1]], v_weight)
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
    qkv = [i_weight.new_empty(*heads, x_conv.shape[1] // heads[2]) for _ in range(3)]
    return *qkv, i_weight.new_empty(heads), i_weight.new_empty(heads)


@torch.library.custom_op("xlstm::slstm_projections", mutates_args=())
def slstm_projections(
    x_conv: Tensor,
    x: Tensor,
    i_weight: Tensor,
    f_weight: Tensor,
    z_weight: Tensor,
    o_weight: Tensor,
    together: int,
    lengths: Tensor | None = None,
) -> Tensor:
    """What an sLSTM cell takes: each gate by a matrix for each head.

    Args:
        x_conv, x: (N, H D): what the input and the forget gate come from, and what z and the output gate come from.
        i_weight, f_weight, z_weight, o_weight: (H, D, D) T, [head, out, in].
        together: a divisor of H, as in `mlstm_projections`.
        lengths: (B) int32, whose number alone matters.

    Returns:
        (B, S, 4, H, D) T.
    """
    heads, width, _ = i_weight.shape
    pairs = [(x_conv, i_weight), (x_conv, f_weight), (x, z_weight), (x, o_weight)]
    gates = [torch.einsum("nhi,hoi->nho", x.reshape(-1, heads, width).to(w.dtype), w) for x, w in pairs]
    return torch.stack(gates, 1).reshape(*_rows(x, lengths), 4, heads, width)


@slstm_projections.register_fake
def _(x_conv, x, i_weight, f_weight, z_weight, o_weight, together, lengths=None):  # type: ignore[no-untyped-def]
    return i_weight.new_empty(*_rows(x, lengths), 4, *i_weight.shape[:2])


@torch.library.custom_op("xlstm::mlstm_heads", mutates_args=())
def mlstm_heads(
    x: Tensor, gates: Tensor, heads: int, qk_head: int, v_head: int, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What an mLSTM cell of xLSTM-7B takes, from two products for all of it.

    Args:
        x: (N, 2 H K + 2 H V) T: queries, keys, values and output gate side by side.
        gates: (N, 2 H) T: the pre-activations i and f side by side.
        heads, qk_head, v_head: H, K, V.
        lengths: (B) int32, whose number alone matters.

    Returns:
        q, k (B, S, H, K) T, v (B, S, H, V) T, i, f (B, S, H) T, and the output gate o (N, H V), widened to float32.
    """
    rows = (*_rows(x, lengths), heads)
    q, k, v, o = x.split([heads * qk_head, heads * qk_head, heads * v_head, heads * v_head], -1)
    i, f = gates.split(heads, -1)
    by_head = (part.reshape(*rows, -1).clone() for part in (q, k, v))
    wide = o.to(torch.promote_types(x.dtype, torch.float32)).clone()
    return *by_head, i.reshape(rows).clone(), f.reshape(rows).clone(), wide


@mlstm_heads.register_fake
def _(x, gates, heads, qk_head, v_head, lengths=None):  # type: ignore[no-untyped-def]
    rows = (*_rows(x, lengths), heads)
    sizes = ((*rows, qk_head), (*rows, qk_head), (*rows, v_head), rows, rows)
    o = x.new_empty(x.shape[0], heads * v_head, dtype=torch.promote_types(x.dtype, torch.float32))
    return *(x.new_empty(size) for size in sizes), o


def _norm_of_heads(h: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Layer norm over each head, (N, H D). Upstream: `MultiHeadLayerNorm`, a group norm with one group a head."""
    y = F.layer_norm(h.to(weight.dtype), (h.shape[-1],), eps=eps) * weight
    return y.reshape(-1, weight.numel())


@torch.library.custom_op("xlstm::head_norm", mutates_args=())
def head_norm(h: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Layer norm over each head. h: (B, S, H, D) of a cell's dtype T; weight: (H, D). Returns (N, H D)."""
    return _norm_of_heads(h, weight, eps)


@head_norm.register_fake
def _(h, weight, eps):  # type: ignore[no-untyped-def]
    return weight.new_empty(h.shape[0] * h.shape[1], h.shape[2] * h.shape[3])


@torch.library.custom_op("xlstm::gated_head_norm", mutates_args=())
def gated_head_norm(h: Tensor, weight: Tensor, gate: Tensor, eps: float) -> Tensor:
    """Sigmoid of the output gate times the norm over each head (xLSTM-7B, Beck et al. 2025).

    Args:
        h: (B, S, H, D) of a cell's dtype T.
        weight: (H, D).
        gate: (N, Z), whose last H D columns are pre-activations.
        eps: of the norm.

    Returns:
        (N, H D).
    """
    return torch.sigmoid(gate[:, -weight.numel() :]) * _norm_of_heads(h, weight, eps)


@gated_head_norm.register_fake
def _(h, weight, gate, eps):  # type: ignore[no-untyped-def]
    return gate.new_empty(gate.shape[0], weight.shape[0] * weight.shape[1])


@torch.library.custom_op("xlstm::skip_gated_head_norm", mutates_args=())
def skip_gated_head_norm(h: Tensor, weight: Tensor, gate: Tensor, skip: Tensor, x: Tensor, eps: float) -> Tensor:
    """(norm over each head + skip x) SiLU(gate) (Beck et al. 2024, figure 11).

    Args:
        h: (B, S, H, D) of a cell's dtype T.
        weight: (H, D).
        gate: (N, Z), whose last H D columns are pre-activations.
        skip, x: (H D), (N, H D).
        eps: of the norm.

    Returns:
        (N, H D).
    """
    return (_norm_of_heads(h, weight, eps) + skip * x) * F.silu(gate[:, -weight.numel() :])


@skip_gated_head_norm.register_fake
def _(h, weight, gate, skip, x, eps):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


@torch.library.custom_op("xlstm::add_layer_norm", mutates_args=())
def add_layer_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Of the residual stream x (N, D) and what is added to it, y (N, D) T: the layer norm of x + y, and x + y."""
    x_next = x + y.to(x.dtype)
    return F.layer_norm(x_next, (x.shape[-1],), weight, eps=eps), x_next


@add_layer_norm.register_fake
def _(x, y, weight, eps):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), torch.empty_like(x)


@torch.library.custom_op("xlstm::add_rms_norm", mutates_args=())
def add_rms_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `add_layer_norm`, with the root mean square norm."""
    x_next = x + y.to(x.dtype)
    return F.rms_norm(x_next, (x.shape[-1],), weight, eps), x_next


@add_rms_norm.register_fake
def _(x, y, weight, eps):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), torch.empty_like(x)


def _gated_linear_unit(activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Computed in float32 at least."""
    gate, up = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, -1)
    return (activation(gate) * up).to(x.dtype)


@torch.library.custom_op("xlstm::geglu", mutates_args=())
def geglu(x: Tensor) -> Tensor:
    """GELU(gate) up of x = [gate, up], (N, 2 F) → (N, F), of one dtype T (Shazeer 2020)."""
    return _gated_linear_unit(F.gelu, x)


@torch.library.custom_op("xlstm::swiglu", mutates_args=())
def swiglu(x: Tensor) -> Tensor:
    """SiLU(gate) up of x = [gate, up], (N, 2 F) → (N, F), of one dtype T (Shazeer 2020)."""
    return _gated_linear_unit(F.silu, x)


@geglu.register_fake
@swiglu.register_fake
def _(x):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], x.shape[1] // 2)


@torch.library.custom_op("xlstm::soft_cap", mutates_args=())
def soft_cap(x: Tensor, cap: float) -> Tensor:
    """cap tanh(x / cap), of x (B, S, V) T, in float32 at least."""
    return cap * torch.tanh(x.to(torch.promote_types(x.dtype, torch.float32)) / cap)


@soft_cap.register_fake
def _(x, cap):  # type: ignore[no-untyped-def]
    return torch.empty_like(x, dtype=torch.promote_types(x.dtype, torch.float32))


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
