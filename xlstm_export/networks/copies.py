"""A copy of a user's network, with which anything may be done."""

from __future__ import annotations

import copy

from torch import Tensor, nn


def copy_network(network: nn.Module) -> nn.Module:
    """A deep copy; tensors that the network computed and kept (weight norm by hooks, statistics) lose their history.

    `copy.deepcopy` refuses those, which are no leaves of autograd's graph.
    """
    kept = [v for m in network.modules() for v in vars(m).values() if isinstance(v, Tensor) and not v.is_leaf]
    return copy.deepcopy(network, {id(value): value.detach().clone() for value in kept})
