"""The networks in `models/examples`, and the files beside them, without importing by name: all are called alike."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import torch

from support.paths import ROOT

EXAMPLES = ROOT / "models" / "examples"


def load(path: Path) -> ModuleType:
    """A file as a module."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trained(name: str) -> torch.nn.Module:
    """The network of an example with its weights, in eval mode."""
    module = load(EXAMPLES / name / "network.py").build()
    module.load_state_dict(torch.load(EXAMPLES / name / "ckpt.pt", weights_only=True))
    return module.eval()
