"""What device and software the measurements are of."""

from __future__ import annotations

import subprocess

import torch


def facts(folder: str) -> dict:
    """Part of every record; and `bandwidth`, bytes a second by the memory's clock and width."""
    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = "none"
    clock, width = getattr(properties, "memory_clock_rate", 0), getattr(properties, "memory_bus_width", 0)
    return {
        "device": properties.name,
        "driver": driver,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton_version,
        "bandwidth": 2 * clock * 1e3 * width / 8,
    }
