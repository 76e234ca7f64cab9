"""The two cells as PyTorch operators: `torch.ops.xlstm.mlstm_cell` and `torch.ops.xlstm.slstm_cell`.

Tracing keeps each as one node, which the exporter writes as `ai.xlstm::MLSTMCell` and `ai.xlstm::SLSTMCell`.
The eager implementation here is the plain recurrence, in the dtype of the states (float32; float64 for checks),
and is what every function body and kernel is held against. Shapes: B batch, S sequence, H heads.

The mLSTM's memory C may be stored in half precision: it is widened before the first position of a call, and rounded
after the last one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _soft_cap(x: Tensor, cap: float) -> Tensor:
    return cap * torch.tanh(x / cap) if cap else x


def _advances(lengths: Tensor | None, t: int, like: Tensor) -> Tensor | None:
    """Which rows advance at position t, shaped to broadcast against `like` (B, ...)."""
    if lengths is None:
        return None
    return (lengths > t).reshape(-1, *[1] * (like.dim() - 1))


def _keep_idle(lengths: Tensor | None, t: int, new: Tensor, old: Tensor) -> Tensor:
    advances = _advances(lengths, t, new)
    return new if advances is None else torch.where(advances, new, old)


@torch.library.custom_op("xlstm::mlstm_cell", mutates_args=())
def mlstm_cell(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    C: Tensor,
    n: Tensor,
    m: Tensor,
    q_scale: float,
    k_scale: float,
    gate_soft_cap: float,
    eps: float,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """mLSTM recurrence (Beck et al. 2024, equations 19 to 27; stabilised as in its appendix A).

    Args:
        q, k: (B, S, H, DK), activation dtype T.
        v: (B, S, H, DV) T.
        i, f: (B, S, H) T, pre-activations of the input and forget gate.
        C, n, m: (B, H, DK, DV), (B, H, DK), (B, H): memory, normaliser, stabiliser; all zeros on reset.
            The dtype of n and m, float32 or float64, is that of the computation. C has it too, or is float16 or
            bfloat16.
        q_scale, k_scale: factors on queries and keys. The `xlstm` package scales k, xLSTM-7B scales q.
        gate_soft_cap: x = cap * tanh(x / cap) on both gates; 0: none.
        eps: added to the denominator after the maximum.
        lengths: (B) int32; row b advances only at its first lengths[b] positions. Beyond, h is zero.

    Returns:
        h (B, S, H, DV) T and the next C, n, m.
    """
    dtype, stored = n.dtype, C.dtype
    outputs = []
    C, n, m = C.to(dtype, copy=True), n.clone(), m.clone()
    for t in range(q.shape[1]):
        q_t, k_t, v_t = q[:, t].to(dtype) * q_scale, k[:, t].to(dtype) * k_scale, v[:, t].to(dtype)
        i_t, f_t = _soft_cap(i[:, t].to(dtype), gate_soft_cap), _soft_cap(f[:, t].to(dtype), gate_soft_cap)
        log_f = F.logsigmoid(f_t)
        m_next = torch.maximum(log_f + m, i_t)
        decay, gain = torch.exp(log_f + m - m_next), torch.exp(i_t - m_next)
        C_next = decay[..., None, None] * C + gain[..., None, None] * k_t[..., None] * v_t[..., None, :]
        n_next = decay[..., None] * n + gain[..., None] * k_t
        numerator = torch.einsum("bhkv,bhk->bhv", C_next, q_t)
        denominator = torch.maximum((n_next * q_t).sum(-1).abs(), torch.exp(-m_next)) + eps
        h = numerator / denominator[..., None]
        outputs.append(_keep_idle(lengths, t, h, torch.zeros_like(h)))
        C, n, m = (_keep_idle(lengths, t, new, old) for new, old in ((C_next, C), (n_next, n), (m_next, m)))
    return torch.stack(outputs, 1).to(q.dtype), C.to(stored), n, m


@mlstm_cell.register_fake
def _(q, k, v, i, f, C, n, m, q_scale, k_scale, gate_soft_cap, eps, lengths=None):  # type: ignore[no-untyped-def]
    return torch.empty_like(v, dtype=q.dtype), torch.empty_like(C), torch.empty_like(n), torch.empty_like(m)


@torch.library.custom_op("xlstm::slstm_cell", mutates_args=())
def slstm_cell(
    x: Tensor,
    R: Tensor,
    b: Tensor,
    y: Tensor,
    c: Tensor,
    n: Tensor,
    m: Tensor,
    forget_clamp: float,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """sLSTM recurrence (Beck et al. 2024, equations 8 to 18).

    The first step from zeros is told by n == 0, element by element, as in the upstream CUDA kernel
    (`slstm_pointwise.cu`); the upstream PyTorch code asks the whole tensor at once.

    Args:
        x: (B, S, 4, H, DH), activation dtype T: the input's part of the pre-activations, gates i, f, z, o.
        R: (H, 4, DH, DH), [head, gate, out, in], T or the dtype of the states.
        b: (4, H, DH), dtype of the states.
        y, c, n, m: (B, H, DH): output, cell, normaliser, stabiliser; all zeros on reset. Their dtype,
            float32 or float64, is that of the computation.
        forget_clamp: upper bound of the forget gate's pre-activation (TiRex: 15); 0: none.
        lengths: (B) int32; row b advances only at its first lengths[b] positions. Beyond, hidden is zero.

    Returns:
        hidden (B, S, H, DH) T and the next y, c, n, m.
    """
    dtype = c.dtype
    outputs = []
    y, c, n, m = y.clone(), c.clone(), n.clone(), m.clone()
    for t in range(x.shape[1]):
        raw = x[:, t].to(dtype) + torch.einsum("hgoi,bhi->bgho", R.to(dtype), y) + b
        i_raw, f_raw, z_raw, o_raw = raw.unbind(1)
        if forget_clamp:
            f_raw = f_raw.clamp(max=forget_clamp)
        carried = m + F.logsigmoid(f_raw)
        fresh = n == 0
        m_next = torch.where(fresh, i_raw, torch.maximum(i_raw, carried))
        gain = torch.exp(i_raw - m_next)
        decay = torch.where(fresh, torch.zeros_like(carried), torch.exp(carried - m_next))
        c_next = decay * c + gain * torch.tanh(z_raw)
        n_next = decay * n + gain
        y_next = torch.sigmoid(o_raw) * c_next / n_next
        outputs.append(_keep_idle(lengths, t, y_next, torch.zeros_like(y_next)))
        y, c, n, m = (
            _keep_idle(lengths, t, new, old) for new, old in ((y_next, y), (c_next, c), (n_next, n), (m_next, m))
        )
    return torch.stack(outputs, 1).to(x.dtype), y, c, n, m


@slstm_cell.register_fake
def _(x, R, b, y, c, n, m, forget_clamp, lengths=None):  # type: ignore[no-untyped-def]
    hidden = x.new_empty(x.shape[0], x.shape[1], x.shape[3], x.shape[4])
    return hidden, torch.empty_like(y), torch.empty_like(c), torch.empty_like(n), torch.empty_like(m)
