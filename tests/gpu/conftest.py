"""These tests run the CUDA kernels on a GPU. Without one they are skipped, and say so."""

from pathlib import Path

import pytest
from filelock import FileLock

from xlstm_export.native import gpu_programs


@pytest.fixture(scope="session")
def gpu_folder(shared_folder) -> Path:
    """The build folder with the programs for this machine's GPU; built once, whichever worker needs it first."""
    if reason := gpu_programs.why_none_can_run():
        pytest.skip(reason)
    built = shared_folder / "gpu-programs"
    with FileLock(f"{built}.lock"):
        if not built.exists():
            built.write_text(str(gpu_programs.gpu_programs()))
    return Path(built.read_text())
