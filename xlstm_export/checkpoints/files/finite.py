"""A weight that is NaN or infinite is found while it is read, in the same pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ...errors import ErrorKind, UserError

_PIECE = 1 << 17  # elements: a piece and its copy stay in the cache

# Integer dtype of the same width, mask of exponent and mantissa, bits of infinity: |x| as an integer is ordered as
# |x| is, with infinity and then NaN on top. An integer `and` and a maximum are several times as fast as `isfinite`.
_BITS = {
    torch.float16: (np.int16, 0x7FFF, 0x7C00),
    torch.bfloat16: (np.int16, 0x7FFF, 0x7F80),
    torch.float32: (np.int32, 0x7FFF_FFFF, 0x7F80_0000),
    torch.float64: (np.int64, 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
}


def is_finite(values: torch.Tensor) -> bool:
    """Whether every value of a contiguous one-dimensional tensor is finite. Integers are."""
    if values.dtype not in _BITS:
        return True
    integer, mask, infinity = _BITS[values.dtype]
    bits = values.view(getattr(torch, np.dtype(integer).name)).numpy()
    scratch = np.empty(min(len(bits), _PIECE), integer)
    for start in range(0, len(bits), _PIECE):
        piece = bits[start : start + _PIECE]
        if np.bitwise_and(piece, integer(mask), out=scratch[: len(piece)]).max() >= infinity:
            return False
    return True


def not_finite_error(values: torch.Tensor, start: int, shape: tuple[int, ...], name: str, path: Path) -> UserError:
    """Say where, in a tensor of which `values` are the flat elements from `start` on."""
    wrong = ~torch.isfinite(values)
    first = np.unravel_index(start + int(wrong.int().argmax()), shape)
    index = ", ".join(str(int(i)) for i in first)
    return UserError(
        ErrorKind.checkpoint,
        f"{path}: tensor {name} holds NaN or infinity ({int(wrong.sum()):,} times, first at [{index}]). "
        "Its training diverged or the file is damaged; use an earlier checkpoint.",
    )
