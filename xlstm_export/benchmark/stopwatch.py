"""How long one thing takes."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


def median_seconds(run: Callable[[], object], count: int) -> float:
    """Seconds of one of so many runs, after one to warm up."""
    times = []
    for _ in range(1 + count):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))
