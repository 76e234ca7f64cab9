"""The example networks, exported by the command that their READMEs give, do in ONNX Runtime what they do in PyTorch."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest
import torch
from support.command_line import call
from support.example_networks import EXAMPLES, load, trained
from support.paths import ROOT

from xlstm_export.bundle import Bundle
from xlstm_export.runtime import open_session


@pytest.fixture
def exported(tmp_path, capsys, monkeypatch):
    """`exported("pole")` → its bundle, by the last command of its README."""

    def export(name: str) -> Bundle:
        text = (EXAMPLES / name / "README.md").read_text().replace("\\\n", " ")
        (command,) = re.findall(r"^xlstm-export (onnx .*)$", text, re.MULTILINE)
        *arguments, _ = shlex.split(command)
        monkeypatch.chdir(ROOT)
        code, _, errors = call(capsys, monkeypatch, *arguments, tmp_path / name)
        assert code == 0, errors
        return Bundle.open(tmp_path / name)

    return export


def test_policy_keeps_the_pole_up_as_it_does_in_pytorch(exported):
    plant = load(EXAMPLES / "pole" / "plant.py")
    policy, world, state, apart = trained("pole"), plant.START, None, 0.0
    with open_session(exported("pole"), batch=1) as session, torch.no_grad():
        for index in range(2500):  # beyond the first push
            observation = np.array([[world[0], world[2]]], np.float32)
            (force, *_) = session.run({"observation": observation}).values()
            expected, state = policy(torch.from_numpy(observation), state)
            apart = max(apart, abs(float(force[0, 0]) - float(expected)))
            world = plant.step(world, float(force[0, 0]) + plant.push(index))
            assert plant.up(world)
    assert apart < 1e-4 * 2 * plant.MAX_FORCE


def test_denoiser_gives_frame_by_frame_what_it_gives_in_pytorch(exported):
    signals = load(EXAMPLES / "denoiser" / "signals.py")
    noisy, clean = signals.pairs(3, 250, seed=10**6 + 2)
    with torch.no_grad():
        expected = trained("denoiser")(torch.from_numpy(noisy)).numpy()
    with open_session(exported("denoiser"), batch=3) as session:
        frames = [next(iter(session.run({"noisy": noisy[:, t : t + 1]}).values())) for t in range(250)]
    given = np.concatenate(frames, 1)
    assert np.abs(given - expected).max() < 1e-4 * np.ptp(expected)
    assert signals.snr(clean, given) > signals.snr(clean, noisy) + 3


def test_rhythm_classifier_names_the_same_rhythms_as_in_pytorch(exported):
    rhythms, bundle = load(EXAMPLES / "ecg" / "rhythms.py"), exported("ecg")
    assert bundle.manifest.mode == "window"
    for rows, seconds in ((20, 8.0), (3, 5.5)):
        signal, _ = rhythms.windows(rows, seconds, seed=10**6 + 2)
        with torch.no_grad():
            expected = trained("ecg")(torch.from_numpy(signal)).numpy()
        with open_session(bundle, batch=rows) as session:
            (given,) = session.run({"signal": signal}).values()
        assert np.abs(given - expected).max() < 1e-4 * np.ptp(expected)
