"""Checkpoints of random upstream models, read back and stepped in float64 beside the models they came from."""

from __future__ import annotations

import copy

import pytest
import torch
from support.upstream_models import (
    VARIANTS,
    Variant,
    canonical_states,
    random_inputs,
    to_double,
    upstream_model_of,
    upstream_step,
)

from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.modeling.layers import Dtypes
from xlstm_export.modeling.model import Model

STEPS = 24
TOLERANCE = 1e-10
"""Both sides compute in float64 (epsilon 2e-16) values of order one to ten, through a few hundred operations a step
and a recurrence that forgets; a wrong layout, epsilon or scale shows at 1e-7 or above."""


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_checkpoint_steps_like_the_upstream_model(variant: Variant, tmp_path):
    upstream = variant.build(seed=3)
    checkpoint = open_checkpoint(variant.save(upstream, tmp_path))
    assert checkpoint.family == variant.family
    model = Model(checkpoint.architecture, Dtypes(torch.float64, torch.float64)).load(checkpoint.tensors)
    upstream = to_double(upstream)
    inputs = random_inputs(upstream, batch=2, steps=STEPS, seed=3)
    state, states = None, model.initial_states(2)
    for step in range(STEPS):
        expected, state = upstream_step(upstream, inputs[:, step : step + 1], state)
        actual, *states = model(inputs[:, step : step + 1], *states)
        torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE, msg=lambda m, s=step: f"step {s}: {m}")
        expected_states = canonical_states(upstream, state)
        assert {spec.name for spec in model.states} == set(expected_states)
        for spec, value in zip(model.states, states, strict=True):
            torch.testing.assert_close(
                value, expected_states[spec.name], rtol=0, atol=TOLERANCE, msg=lambda m, n=spec.name: f"{n}: {m}"
            )


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_configuration_and_tensors_rebuild_the_upstream_model(variant: Variant, tmp_path):
    upstream = variant.build(seed=4)
    checkpoint = open_checkpoint(variant.save(upstream, tmp_path))
    rebuilt = upstream_model_of(checkpoint).state_dict()
    original = upstream.state_dict()
    assert rebuilt.keys() == original.keys()
    for name, tensor in original.items():
        assert torch.equal(rebuilt[name], tensor), name


def test_every_tensor_of_a_safetensors_checkpoint_that_is_stored_as_it_is_used_has_its_bytes_in_the_file(tmp_path):
    for name in ("b-fused-bias", "c-shards"):
        variant = VARIANTS[name]
        checkpoint = open_checkpoint(variant.save(variant.build(seed=5), tmp_path / name))
        for tensor_name, tensor in checkpoint.tensors.items():
            assert tensor.extent is not None, tensor_name
            with tensor.extent.path.open("rb") as file:
                file.seek(tensor.extent.offset)
                stored = torch.frombuffer(bytearray(file.read(tensor.extent.length)), dtype=tensor.dtype)
            assert torch.equal(stored, tensor.read().reshape(-1)), tensor_name


def test_hugging_face_reference_steps_as_its_own_forward_does():
    """`upstream_step` repeats the last two lines of the model's forward, which casts to float32."""
    model = VARIANTS["c-single"].build(seed=6)
    inputs = random_inputs(model, batch=2, steps=3)
    state, cache = None, None
    for step in range(3):
        logits, state = upstream_step(model, inputs[:, step : step + 1], state)
        with torch.no_grad():
            output = model(inputs[:, step : step + 1], cache_params=cache, use_cache=True)
        cache = output.cache_params
        assert torch.equal(output.logits, logits)


def test_cuda_layout_differs_from_vanilla_in_the_file_and_not_after_reading(tmp_path):
    vanilla, cuda = VARIANTS["a-mixed"], VARIANTS["a-cuda-layout"]
    model = vanilla.build(seed=7)
    paths = vanilla.save(model, tmp_path / "vanilla"), cuda.save(copy.deepcopy(model), tmp_path / "cuda")
    stored = [torch.load(path, weights_only=True) for path in paths]
    name = "xlstm_block_stack.blocks.1.xlstm.slstm_cell._bias_"
    assert not torch.equal(stored[0]["state_dict"][name], stored[1]["model"][name])
    first, second = (open_checkpoint(path) for path in paths)
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor.read(), second.tensors[name].read()), name
