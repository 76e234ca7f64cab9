"""Which drivers run what was built with which CUDA."""

from __future__ import annotations

_FIRST_DRIVERS = {12: 525, 13: 580}
"""By CUDA's major version. A driver runs what was built with any CUDA of its own major version, or of an older one."""


def drivers_for(cuda: str) -> str:
    """What code of a CUDA runtime needs, `13.0` or longer: `an NVIDIA driver for CUDA 13 (580 or newer)`."""
    major = _major(cuda)
    numbers = f" ({_FIRST_DRIVERS[major]} or newer)" if major in _FIRST_DRIVERS else ""
    return f"an NVIDIA driver for CUDA {major}{numbers}"


def driver_runs(driver: str, cuda: str) -> bool:
    """Whether a driver, named by the newest CUDA that it supports, runs code of this CUDA runtime."""
    return _major(driver) >= _major(cuda)


def _major(version: str) -> int:
    return int(version.partition(".")[0])
