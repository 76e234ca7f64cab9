"""These tests run the CUDA kernels on a GPU. Without one they are skipped, and say so."""

import pytest

from xlstm_export.native import gpu_programs


@pytest.fixture(scope="session")
def gpu_folder():
    """The build folder with the programs for this machine's GPU."""
    if reason := gpu_programs.why_none_can_run():
        pytest.skip(reason)
    return gpu_programs.build_gpu_programs()
