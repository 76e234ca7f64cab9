"""What the tests say of their networks is true of the networks themselves, by upstream's code alone."""

from __future__ import annotations

import pytest
import torch
from support.networks import GENERATED, NETWORKS, tensors_of, vendor

ALL = {network.name: network for network in [*NETWORKS.values(), *GENERATED]}
DO_NOT_LOOK_AHEAD = ("position-", "closed-gate-")
"""Of those that do not stream: positions are counted from the beginning, and a product with zero shows nothing."""
AHEAD = [n for n in ALL if not ALL[n].streams and "S" in "".join(ALL[n].inputs.values())]


@pytest.fixture(scope="session", autouse=True)
def _vendored(tmp_path_factory):
    vendor(tmp_path_factory.mktemp("vendored"))


def differences_of_a_prefix(network, length: int = 40, prefix: int = 19) -> list[float]:
    """How far a prefix alone is from the prefix of the whole, relative to the spread, for each output that has time."""
    module = network.build(seed=5)
    inputs = network.example(batch=2, sequence=length, seed=5)
    whole = network.reference(module, inputs)
    alone = network.reference(module, network.piece(inputs, 0, prefix))
    return [
        float((w.narrow(axis, 0, prefix) - a).abs().max() / (w.max() - w.min()))
        for w, a, axis in zip(whole, alone, network.time_axes, strict=True)
        if axis is not None
    ]


@pytest.mark.parametrize("name", [name for name, network in ALL.items() if network.streams])
def test_network_that_streams_does_not_look_ahead(name):
    assert all(difference < 1e-4 for difference in differences_of_a_prefix(ALL[name]))


@pytest.mark.parametrize("name", [n for n in AHEAD if not n.startswith(DO_NOT_LOOK_AHEAD) and any(ALL[n].time_axes)])
def test_network_that_is_said_to_look_ahead_does(name):
    assert max(differences_of_a_prefix(ALL[name])) > 1e-3


WITHOUT_GRADIENTS = ("policy-", "speech-encoder-transformers")
"""Upstream's `step` writes in place, which autograd refuses; transformers' backbone leaves its embedding out."""


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith(WITHOUT_GRADIENTS)])
def test_every_weight_of_the_network_matters(name):
    """Else a mistake in taking it over would not show: its gradient is not zero somewhere."""
    network = ALL[name]
    module = network.build(seed=6)
    outputs = tensors_of(module(**network.example(batch=2, sequence=network.lengths[0], seed=6)))
    sum(torch.sin(3 * output + i).sum() for i, output in enumerate(outputs)).backward()
    without = {path for path, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert without == ({"before.map.weight", "before.map.bias"} if name.startswith("closed-gate") else set())
