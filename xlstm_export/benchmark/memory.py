"""What the memory allows: reading as many bytes as the weights have, and updating as many as the states have.

The streams of `plugins/cells/cpu/memory_stream.cc` fetch ahead across pages, where the processor's own prefetcher
stops; NumPy's loops do not. So the compiled ones are taken where `plugins build` has made them, and the report says
which.
"""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

_MOST_BYTES = 1 << 30  # of a stream: beyond every cache, more tell nothing new
_TURN_SECONDS = 0.1
_SHARE = np.float32(0.999)


class MemoryStream:
    """Buffers as large as a model's weights and states, shared out to threads that read and update them.

    A model that fits into the caches is held against buffers that fit into them too.
    """

    def __init__(self, weight_bytes: int, state_bytes: int, threads: int, library: Path | None):
        self._read, self._update, self.kind = _streams(library)
        self._sizes = weight_bytes, state_bytes
        self._weights, self._states = (
            [_ones(min(size, _MOST_BYTES) // 4 // threads) for _ in range(threads)] for size in self._sizes
        )
        self._pool, self._threads, self._passes = ThreadPoolExecutor(threads), threads, 1
        self._passes = max(1, math.ceil(_TURN_SECONDS / max(sum(self.turn()[:2]), 1e-6)))

    def turn(self) -> tuple[float, float, float]:
        """Seconds of one pass over the weights and of one over the states, at the mean of as many as fill a turn.

        The third number is the share of that time for which the threads had no processor: others had them.
        """
        *seconds, worked = np.mean(list(self._pool.map(self._work, range(self._threads))), 0)
        taken = max(0.0, 1 - worked / sum(seconds))
        scales = (max(size / _MOST_BYTES, 1) / self._passes for size in self._sizes)
        read, update = (float(s * scale) for s, scale in zip(seconds, scales, strict=True))
        return read, update, float(taken)

    def _work(self, thread: int) -> tuple[float, float, float]:
        weights, states = self._weights[thread], self._states[thread]
        reading = updating = 0.0
        began = time.thread_time()
        for _ in range(self._passes):
            start = time.perf_counter()
            self._read(weights)
            middle = time.perf_counter()
            self._update(states)
            reading += middle - start
            updating += time.perf_counter() - middle
        return reading, updating, time.thread_time() - began


def all_threads() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ones(words: int) -> np.ndarray:
    """Pages of its own: untouched ones would all be the same page of zeros."""
    return np.ones(max(words, 1), np.float32)


def _streams(library: Path | None) -> tuple[Callable[[np.ndarray], object], Callable[[np.ndarray], object], str]:
    """What reads an array, what updates one in place, and what these are."""
    compiled = None if library is None else ctypes.CDLL(str(library))
    if compiled is None or not hasattr(compiled, "xlstm_update_memory"):
        return lambda a: a.max(), lambda a: np.multiply(a, _SHARE, out=a), "NumPy"

    def call(function: Callable[..., object]) -> Callable[[np.ndarray], object]:
        return lambda array: function(ctypes.c_void_p(array.ctypes.data), ctypes.c_int64(array.size))

    return call(compiled.xlstm_read_memory), call(compiled.xlstm_update_memory), "compiled"
