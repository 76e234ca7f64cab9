"""The size configurations in `models/configs` are read, and make models of the published sizes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support.upstream_models import build_upstream

from xlstm_export.checkpoints import read_config
from xlstm_export.modeling.model import Model

CONFIGS = Path(__file__).parents[2] / "models" / "configs"

SIZES = {
    # file: (parameters, tolerance, float32 state in MiB); upstream counts its own models so, on the meta device
    "xlstm-125m-1-0": (163.8e6, 0.05e6, 54.7),
    "xlstm-125m-7-1": (163.7e6, 0.05e6, 50.2),
    "xlstm-350m-1-0": (409.3e6, 0.05e6, 193.9),
    "xlstm-350m-7-1": (408.4e6, 0.05e6, 169.8),
    "xlstm-760m-1-0": (840.4e6, 0.05e6, 434.8),
    "xlstm-760m-7-1": (839.7e6, 0.05e6, 380.7),
    "xlstm-1.3b-1-0": (1422.6e6, 0.05e6, 771.8),
    "xlstm-1.3b-7-1": (1420.1e6, 0.05e6, 675.7),
    "xlstm-7b": (6_865_424_896, 0, 128.25),
    "mlstm-1.3b": (1_420_839_104, 0, 48.1),
    "mlstm-165m": (162_303_840, 0, 3.39),
    "tirex": (35_291_200, 0, 0.094),
    "tirex2": (38.4e6, 0.05e6, 0.803),
}


def test_every_configuration_has_its_size_here():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_configuration_makes_a_model_of_the_published_size(name: str):
    parameters, tolerance, _ = SIZES[name]
    _, architecture, _ = read_config(CONFIGS / f"{name}.yaml")
    with torch.device("meta"):
        model = Model(architecture)
    assert abs(sum(p.numel() for p in model.parameters()) - parameters) <= tolerance


@pytest.mark.parametrize("name", ["xlstm-125m-7-1", "xlstm-350m-1-0", "mlstm-165m", "xlstm-7b", "tirex"])
def test_upstream_makes_a_model_of_the_same_size_of_the_complete_configuration(name: str):
    parameters, tolerance, _ = SIZES[name]
    family, _, config = read_config(CONFIGS / f"{name}.yaml")
    with torch.device("meta"):
        model = build_upstream(family, config)
    assert abs(sum(p.numel() for p in model.parameters()) - parameters) <= tolerance


@pytest.mark.parametrize("name", SIZES)
def test_state_has_the_published_size(name: str):
    """Upstream keeps one dead column more in each convolution window, hence the tolerance."""
    _, architecture, _ = read_config(CONFIGS / f"{name}.yaml")
    with torch.device("meta"):
        states = Model(architecture).states
    assert 4 * sum(math.prod(state.shape) for state in states) / 2**20 == pytest.approx(SIZES[name][2], rel=0.015)
