"""What a comparison runs in: versions of packages, and threads."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import nn

from ..version import __version__

_ONE_THREAD = 30_000_000  # parameters: a smaller model's operators are too short to be shared between threads
_PACKAGES = (
    "torch xlstm mlstm_kernels tirex-ts tirex-2 flashrnn transformers onnxruntime onnxruntime-gpu tensorrt-rtx tensorrt"
).split()


@contextmanager
def threads_for(module: nn.Module) -> Iterator[None]:
    """One thread of torch, unless the module is large."""
    before = torch.get_num_threads()
    if sum(p.numel() for p in module.parameters()) < _ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def versions() -> dict[str, str]:
    """Of this package, Python, and whatever else takes part and is installed."""
    found = {"xlstm-export": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
