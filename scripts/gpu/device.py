"""What device and software the measurements are of."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import torch

from xlstm_export.nvidia.driver import CudaDriver

_MEMORY_CLOCK_KHZ, _MEMORY_BUS_BITS = 36, 37  # CUdevice_attribute


def facts(folder: str) -> dict:
    """Part of every record; and `bandwidth`, bytes a second by the memory's clock and width."""
    driver = CudaDriver()
    clock, width = (_attribute(driver, number) for number in (_MEMORY_CLOCK_KHZ, _MEMORY_BUS_BITS))
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = "none"
    return {
        "device": torch.cuda.get_device_name(),
        "driver": _driver_version(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton_version,
        "bandwidth": 2 * clock * 1e3 * width / 8,  # two transfers a clock
    }


def _attribute(driver: CudaDriver, number: int) -> int:
    value = ctypes.c_int()
    driver.call("cuDeviceGetAttribute", ctypes.byref(value), number, 0)
    return value.value


def _driver_version() -> str:
    """`580.82`, of the kernel's module."""
    said = Path("/proc/driver/nvidia/version")
    found = re.search(r"\d{3}\.[\d.]+", said.read_text()) if said.exists() else None
    return found[0] if found else "unknown"
