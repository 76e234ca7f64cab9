"""What the tests of libxlstm_runtime share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.native import build_runtime


@pytest.fixture(scope="session")
def release() -> Path:
    """The programs of an ordinary build, with the TensorRT back end where its headers are here."""
    return build_runtime() / "bin"


@pytest.fixture(scope="module")
def cpu_and_one_thread() -> Iterator[None]:
    """Both sides split the work the same way: not at all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield
