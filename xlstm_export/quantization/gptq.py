"""GPTQ (Frantar et al. 2023): rounding a column of a matrix, and making up for the error in those that follow.

What is kept small is not the error of the weights but of the product: the sum over the text of |x (W - Ŵ)ᵀ|², with
H = mean x xᵀ. Columns are taken in the order of their importance, H's diagonal (the authors' `act-order`), with the
scales of the blocks as they lie in the file, chosen beforehand.
"""

from __future__ import annotations

import numpy as np

from .formats import Format, blocked, search_scales

_DAMPING = 0.01
"""Of the mean of H's diagonal: as the paper has it."""
_LAZY = 128
"""Columns after which the error is carried over to all that follow."""


def gptq(
    weights: np.ndarray, moment: np.ndarray, format_: Format, block_size: int, scale_dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Quantise a matrix against what its product is fed.

    Args:
        weights: (N, K) float32.
        moment: H, (K, K) float32.
        format_, block_size, scale_dtype: of codes and scales.

    Returns:
        Codes (N, K) and scales (N, blocks), float32.
    """
    rows, inputs = weights.shape
    diagonal = np.diag(moment)
    importance = blocked(diagonal[None], block_size) + _DAMPING * diagonal.mean() + 1e-30
    _, scales = search_scales(blocked(weights, block_size), format_, scale_dtype, importance)
    order = np.argsort(-diagonal, kind="stable")
    upper = _inverse_factor(moment[np.ix_(order, order)])
    left = weights[:, order].astype(np.float32)
    of_column = np.repeat(scales, block_size, 1)[:, :inputs][:, order]
    codes = np.empty_like(left)
    for start in range(0, inputs, _LAZY):
        stop = min(start + _LAZY, inputs)
        errors = np.empty((rows, stop - start), np.float32)
        for column in range(start, stop):
            scale = of_column[:, column]
            codes[:, column] = format_.encode(left[:, column] / scale)
            error = (left[:, column] - codes[:, column] * scale) / upper[column, column]
            left[:, column:stop] -= np.outer(error, upper[column, column:stop])
            errors[:, column - start] = error
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    unordered = np.empty_like(codes)
    unordered[:, order] = codes
    return unordered, scales


def _inverse_factor(moment: np.ndarray) -> np.ndarray:
    """U of H⁻¹ = Uᵀ U, upper triangular, float32. H is damped until it has an inverse."""
    h = moment.astype(np.float64)
    damping = _DAMPING * float(np.mean(np.diag(h))) or 1.0
    while True:
        try:
            inverse = np.linalg.inv(h + damping * np.eye(len(h)))
            return np.linalg.cholesky(inverse).T.astype(np.float32)
        except np.linalg.LinAlgError:
            damping *= 10
