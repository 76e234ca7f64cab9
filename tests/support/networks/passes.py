"""A bundle of a network, fed as its users feed it: whole, in pieces, with rows of different lengths, with resets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from support.networks.network import Network


def fed(network: Network, inputs: Mapping[str, Tensor], begin: int, end: int) -> dict[str, np.ndarray]:
    """Positions `begin` to `end` as a session takes them; of a network by hand a single one, without a time axis."""
    piece = network.piece(inputs, begin, end)
    if network.by_hand:
        assert end == begin + 1
        return {name: tensor.squeeze(1).numpy() for name, tensor in piece.items()}
    return {name: tensor.numpy() for name, tensor in piece.items()}


def run_cut(session, network: Network, inputs: Mapping[str, Tensor], cuts: Sequence[int], begin: int = 0):
    """Outputs in their order after passes of so many positions each: joined along time, or the last ones."""
    parts, at = [], begin
    for cut in cuts:
        parts.append(list(session.run(fed(network, inputs, at, at + cut)).values()))
        at += cut
    joined = []
    for axis, pieces in zip(network.time_axes, zip(*parts, strict=True), strict=True):
        if axis is None:
            joined.append(pieces[-1])
        else:
            joined.append(np.stack(pieces, 1) if network.by_hand else np.concatenate(pieces, axis))
    return joined


def errors(got: Sequence[np.ndarray], expected: Sequence[Tensor]) -> list[float]:
    """The largest difference of each output, relative to the spread of what is expected."""
    assert [tuple(g.shape) for g in got] == [tuple(e.shape) for e in expected]
    return [float(np.abs(g - e.numpy()).max() / np.ptp(e.numpy())) for g, e in zip(got, expected, strict=True)]


def row(tensors: Sequence[Tensor], index: int) -> list[Tensor]:
    """One row of each."""
    return [tensor[index : index + 1] for tensor in tensors]
