"""The example networks do what their READMEs say, with upstream's package alone."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest
import torch
from support.example_networks import EXAMPLES, load, trained


@pytest.fixture(scope="module")
def plant() -> ModuleType:
    return load(EXAMPLES / "pole" / "plant.py")


def test_sine_and_cosine_of_the_plant_are_as_exact_as_they_say(plant):
    angles = np.linspace(-plant.FALLEN, plant.FALLEN, 1001)
    assert np.abs(plant.sine(angles) - np.sin(angles)).max() < 2e-11
    assert np.abs(plant.cosine(angles) - np.cos(angles)).max() < 1e-12


def test_plant_gives_the_same_bits_for_floats_arrays_and_tensors(plant):
    states = np.random.default_rng(0).uniform(-0.4, 0.4, (4, 50))
    forces = np.random.default_rng(1).uniform(-10, 10, 50)
    together = np.stack(plant.step(tuple(states), forces))
    tensors = torch.stack(plant.step(tuple(torch.from_numpy(states)), torch.from_numpy(forces)))
    alone = [plant.step(tuple(states[:, i].tolist()), float(forces[i])) for i in range(50)]
    assert np.array_equal(together, np.transpose(alone)) and np.array_equal(together, tensors.numpy())


def test_pole_without_a_force_falls_and_energy_is_kept(plant):
    state, energies = (0.0, 0.0, 0.05, 0.0), []
    while plant.up(state):
        x, v, a, w = state
        speed = v * v + 2 * plant.HALF_LENGTH * v * w * math.cos(a) + (4 / 3) * plant.HALF_LENGTH**2 * w * w
        height = plant.GRAVITY * plant.HALF_LENGTH * math.cos(a)
        energies.append(plant.CART_MASS * v * v / 2 + plant.POLE_MASS * (speed / 2 + height))
        state = plant.step(state, 0.0)
    assert 100 < len(energies) < 1000
    assert np.ptp(energies) < 1e-3 * plant.POLE_MASS * plant.GRAVITY * plant.HALF_LENGTH


def test_policy_keeps_the_pole_up_through_a_push_which_it_does_not_without_its_memory(plant):
    policy = trained("pole")

    def steps_up(forget: bool, most: int = 2500) -> int:
        world, state = (-0.2, 0.0, -0.1, 0.0), None
        for index in range(most):
            observation = torch.tensor([[world[0], world[2]]], dtype=torch.float64).float()
            force, state = policy(observation, None if forget else state)
            world = plant.step(world, float(force) + plant.push(index))
            if not plant.up(world):
                return index
        return most

    with torch.no_grad():
        assert steps_up(forget=False) == 2500
        assert steps_up(forget=True) < 2500


def test_denoiser_raises_the_signal_to_noise_ratio_of_sounds_it_has_not_heard():
    signals = load(EXAMPLES / "denoiser" / "signals.py")
    noisy, clean = signals.pairs(8, 250, seed=10**6 + 1)
    with torch.no_grad():
        given = trained("denoiser")(torch.from_numpy(noisy)).numpy()
    assert signals.snr(clean, given) > signals.snr(clean, noisy) + 3


def test_rhythm_classifier_knows_the_rhythms_of_windows_it_has_not_seen():
    rhythms = load(EXAMPLES / "ecg" / "rhythms.py")
    signal, kind = rhythms.windows(60, 8.0, seed=10**6 + 1)
    with torch.no_grad():
        given = trained("ecg")(torch.from_numpy(signal)).argmax(1).numpy()
    assert np.mean(given == kind) > 0.85
