"""The models' shapes that are timed, and what must at least be moved for them. Plain data: no PyTorch."""

from __future__ import annotations

MLSTM_SHAPES = {"7B": (8, 256, 512), "125M": (4, 384, 384), "1.3B": (4, 1024, 1024)}
"""H, DK, DV: xLSTM-7B, and the paper's models of these sizes."""
SLSTM_SHAPES = {"125M": (4, 192), "760M": (4, 384), "1.3B": (4, 512)}
"""H, DH: the paper's models of these sizes."""
MODELS = ("xlstm-7b", "xlstm-125m-7-1", "xlstm-1.3b-7-1")
"""Of models/configs."""
PREFILL_SHAPE = MLSTM_SHAPES["7B"]
SLSTM_SEQUENCE = 512
VOCABULARY = 50304
LARGE_COPY = 2**31  # bytes


def mlstm_step_traffic(shape: str, batch: int) -> int:
    """Bytes: C read once and written once."""
    heads, dim_qk, dim_v = MLSTM_SHAPES[shape]
    return 2 * 4 * batch * heads * dim_qk * dim_v


def mlstm_prefill_traffic(batch: int, sequence: int) -> int:
    """Bytes: C once each way; q, k, v, the gates and h."""
    heads, dim_qk, dim_v = PREFILL_SHAPE
    return 8 * batch * heads * dim_qk * dim_v + 2 * batch * sequence * heads * (2 * dim_qk + 2 * dim_v + 2)


def mlstm_prefill_operations(batch: int, sequence: int) -> int:
    """q C and k v^T at every position: the least that any form does. The chunkwise form has products of q and k, and of
    these with v, within each chunk beside."""
    heads, dim_qk, dim_v = PREFILL_SHAPE
    return 4 * batch * sequence * heads * dim_qk * dim_v


def slstm_step_traffic(shape: str, batch: int, recurrent: str) -> int:
    """Bytes: R once, the float32 states once each way, the input and the output in bfloat16."""
    heads, dim = SLSTM_SHAPES[shape]
    return heads * 4 * dim * dim * (4 if recurrent == "float32" else 2) + batch * heads * dim * (8 * 4 + 4 * 2 + 2)
