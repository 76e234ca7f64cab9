"""What an engine of a user's own network is tuned for: one profile of steps, of passes, or of windows."""

from __future__ import annotations

import pytest
from support.small_networks import policy_network, summing_network, window_network

from xlstm_export.bundle import Bundle
from xlstm_export.bundle.engine_record import TensorProfile
from xlstm_export.engines.targets import BatchRange, Profile, input_profiles, max_chunk_of
from xlstm_export.errors import UserError


def test_profiles_of_a_network_cover_all_its_inputs(tmp_path):
    manifest = Bundle.open(summing_network(tmp_path / "b")).manifest
    decode, prefill = input_profiles(manifest, BatchRange(1, 2, 4), 16)
    assert [t.name for t in prefill.tensors] == ["x", "w", "scale", "net.total", "lengths"]
    assert prefill.tensors[1] == TensorProfile("w", (1, 2, 1), (2, 2, 16), (4, 2, 16))
    assert decode.tensors[0] == TensorProfile("x", (1, 1, 3), (2, 1, 3), (4, 1, 3))
    assert prefill.tensors[2] == TensorProfile("scale", (1, 1), (2, 1), (4, 1))


def test_policy_has_one_profile_of_single_steps(tmp_path):
    manifest = Bundle.open(policy_network(tmp_path / "b")).manifest
    (profile,) = input_profiles(manifest, BatchRange(1, 1, 4), max_chunk_of(manifest, ("sm89",), None))
    assert profile.name == "decode"
    assert profile.tensors[0] == TensorProfile("observation", (1, 3), (1, 3), (4, 3))


def test_windows_have_one_profile_of_the_length_that_is_said_or_fixed(tmp_path):
    manifest = Bundle.open(window_network(tmp_path / "any")).manifest
    with pytest.raises(UserError, match="whole sequences of any length .*say with --max-chunk"):
        max_chunk_of(manifest, ("sm89",), None)
    (profile,) = input_profiles(manifest, BatchRange(1, 2, 4), max_chunk_of(manifest, ("sm89",), 50))
    assert profile.name == "window"
    assert profile.tensors[0] == TensorProfile("x", (1, 1, 3), (2, 50, 3), (4, 50, 3))
    fixed = Bundle.open(window_network(tmp_path / "fixed", length=8)).manifest
    with pytest.raises(UserError, match="windows of one size .*leave --max-chunk out"):
        max_chunk_of(fixed, ("sm89",), 8)
    (profile,) = input_profiles(fixed, BatchRange(1, 2, 4), max_chunk_of(fixed, ("sm89",), None))
    assert profile.tensors[0] == TensorProfile("x", (1, 8, 3), (2, 8, 3), (4, 8, 3))
    nothing_dynamic = Bundle.open(window_network(tmp_path / "still", batch=2, length=8)).manifest
    assert input_profiles(nothing_dynamic, BatchRange(2, 2, 2), None) == (Profile("window", ()),)
