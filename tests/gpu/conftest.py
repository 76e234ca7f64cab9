"""These tests run the CUDA kernels on a GPU. Without one they are skipped, and say so."""

import pytest
from support import gpu_build


@pytest.fixture(scope="session")
def gpu_folder():
    """The build folder with the programs for this machine's GPU."""
    reason = gpu_build.why_not()
    if reason:
        pytest.skip(reason)
    return gpu_build.build_for_this_gpu()
