"""What a comparison runs in: versions of packages, and threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..version import installed_versions

_ONE_THREAD = 30_000_000  # parameters: a smaller model's operators are too short to be shared between threads
_PACKAGES = (
    "xlstm-export torch xlstm mlstm_kernels tirex-ts tirex-2 flashrnn transformers onnxruntime onnxruntime-gpu "
    "tensorrt-rtx tensorrt"
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
    return installed_versions(_PACKAGES)
