"""The upstream session is upstream itself, bit for bit, with our names and a row reset that is a fresh start."""

import builtins

import numpy as np
import pytest
import torch
from support.upstream_models import VARIANTS, canonical_states, random_inputs, upstream_step

from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.errors import UserError
from xlstm_export.references.load import load_upstream
from xlstm_export.validation.perturbation import perturbed
from xlstm_export.validation.upstream import UpstreamSession

NAMES = ["a-mixed", "a-no-conv", "a-stack", "a-cuda-layout", "a-tied-safetensors", "b-fused", "c-tied"]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Upstream model as it was saved, and as validation loads it; and the shapes of its states."""

    def load(name):
        variant = VARIANTS[name]
        model = variant.build(seed=0)
        path = variant.save(model, tmp_path_factory.mktemp(name))
        _, state = upstream_step(model, random_inputs(model, 1, 1))
        shapes = {key: tuple(value.shape[1:]) for key, value in canonical_states(model, state).items()}
        return model, load_upstream(open_checkpoint(path)), shapes

    return load


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_upstreams_own_bit_for_bit(name, load):
    model, loaded, shapes = load(name)
    session, state = UpstreamSession(loaded, shapes, 3), None
    inputs = random_inputs(model, 3, 12)
    for t in range(12):
        expected, state = upstream_step(model, inputs[:, t : t + 1], state)
        np.testing.assert_array_equal(session.step(inputs[:, t : t + 1].numpy()), expected.numpy())
    expected, states = canonical_states(model, state), session.read_states()
    assert expected.keys() == states.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(states[key], value.numpy(), err_msg=key)


@pytest.mark.parametrize("name", ["a-mixed", "a-all-slstm", "b-single"])
def test_a_row_reset_in_a_warm_batch_is_a_sequence_of_its_own(name, load):
    """Upstream's sLSTM asks of the whole batch whether it is fresh; the session must not."""
    model, loaded, shapes = load(name)
    together, alone = UpstreamSession(loaded, shapes, 3), UpstreamSession(loaded, shapes, 1)
    inputs = random_inputs(model, 3, 16).numpy()
    for t in range(8):
        together.step(inputs[:, t : t + 1])
    together.reset(1)
    for t in range(8, 16):
        row = together.step(inputs[:, t : t + 1])[1]
        expected = alone.step(inputs[1:2, t : t + 1])[0]
        np.testing.assert_allclose(row, expected, atol=1e-5 * np.ptp(expected))  # other batch, other summation order
    for key, value in alone.read_states().items():
        mine = together.read_states()[key][1]
        np.testing.assert_allclose(mine, value[0], atol=1e-4 * max(1, np.abs(value).max()), err_msg=key)


def test_states_that_were_read_and_written_go_on_as_before(load):
    model, loaded, shapes = load("a-mixed")
    session, inputs = UpstreamSession(loaded, shapes, 2), random_inputs(model, 2, 6).numpy()
    for t in range(3):
        session.step(inputs[:, t : t + 1])
    states = session.read_states()
    expected = [session.step(inputs[:, t : t + 1]) for t in range(3, 6)]
    session.write_states(states)
    for t, outputs in zip(range(3, 6), expected, strict=True):
        np.testing.assert_array_equal(session.step(inputs[:, t : t + 1]), outputs)


def test_perturbation_moves_what_a_bundle_stores_in_its_dtype_by_one_roundoff_at_most(load):
    _, loaded, _ = load("a-mixed")
    before = dict(loaded.module.named_parameters())
    for dtype, roundoff in ((torch.float32, 2**-23), (torch.float16, 2**-11), (torch.bfloat16, 2**-8)):
        after = dict(perturbed(loaded, dtype, seed=0).module.named_parameters())
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        for name in moved:
            assert ((after[name] - before[name]).abs() <= 1.001 * roundoff * before[name].abs()).all(), name
        assert any(name.endswith("proj_up.weight") for name in moved)
        assert any(name.endswith("_recurrent_kernel_") for name in moved)
        # Norms, convolutions and narrow block-diagonal projections stay float32 in a half-precision bundle.
        still = [name for name in before if "norm" in name or "conv1d" in name or "q_proj" in name]
        assert still and (dtype == torch.float32 or not moved.intersection(still))


def test_a_missing_upstream_package_is_a_message_that_says_what_to_install(tmp_path, monkeypatch):
    variant = VARIANTS["b-single"]
    checkpoint = open_checkpoint(variant.save(variant.build(), tmp_path))
    real = builtins.__import__

    def without_xlstm(name, *args, **kwargs):
        if name.split(".")[0] == "xlstm":
            raise ModuleNotFoundError("No module named 'xlstm'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_xlstm)
    with pytest.raises(UserError, match=r"No module named 'xlstm'.*pip install 'xlstm-export\[reference\]'"):
        load_upstream(checkpoint)
