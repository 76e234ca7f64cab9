"""Series for forecasters: of many shapes and lengths, with values missing singly, in runs, at the end, altogether."""

from __future__ import annotations

import numpy as np


def random_series(count: int, longest: int, seed: int = 0) -> list[np.ndarray]:
    """`count` series of 1 to `longest` points; of any twelve in a row, one holds no value and one is constant."""
    random = np.random.default_rng(seed)
    return [_series(index, int(random.integers(1, longest + 1)), random) for index in range(count)]


def _series(index: int, length: int, random: np.random.Generator) -> np.ndarray:
    t = np.arange(length)
    season = np.sin(2 * np.pi * t / random.integers(4, 50))
    kind = index % 4
    if kind == 0:
        values = season + 0.2 * random.standard_normal(length)
    elif kind == 1:
        values = np.cumsum(random.standard_normal(length))
    elif kind == 2:
        values = 0.05 * t + season * (1 + 0.01 * t)
    else:
        values = (random.random(length) < 0.1) * random.gamma(2, 3, length) + 0.01 * random.random(length)
    values = values * 10.0 ** random.integers(-3, 4) + 10.0 ** random.integers(-2, 3) * random.standard_normal()
    if index % 12 == 10:
        return np.full(length, np.nan)
    if index % 12 == 11:
        return np.full(length, 0.5 * (index - 20))  # in float32, its mean is itself whatever the order of the sum
    if index % 3 == 1:
        values[random.random(length) < 0.3] = np.nan
    if index % 5 == 2:
        start = int(random.integers(0, length))
        values[start : start + length // 3] = np.nan
    if index % 6 == 4:
        values[-int(random.integers(1, 12)) :] = np.nan
    return values
