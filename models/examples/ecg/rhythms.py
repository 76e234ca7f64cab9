"""Generated electrocardiograms of five rhythms, two leads, 125 Hz: sums of Gaussian waves around each beat.

The shapes follow the idea of McSharry et al. 2003 ("A dynamical model for generating synthetic electrocardiogram
signals"): P, Q, R, S and T are bells at fixed places of a beat. They teach a network, and say nothing about patients.
"""

import numpy as np

RATE = 125  # Hz
CLASSES = ("sinus", "fibrillation", "bigeminy", "block", "flutter")
LEADS = 2
# place [s from the R peak], width [s], height in each lead
_WAVES = {
    "P": (-0.17, 0.025, (0.15, 0.10)),
    "Q": (-0.035, 0.010, (-0.12, -0.05)),
    "R": (0.0, 0.012, (1.0, 0.6)),
    "S": (0.035, 0.012, (-0.25, -0.4)),
    "T": (0.26, 0.05, (0.3, 0.2)),
}


def _bells(
    signal: np.ndarray, t: np.ndarray, at: float, names: str, generator: np.random.Generator, sign=1.0, wide=1.0
):
    for name in names:
        place, width, heights = _WAVES[name]
        bell = np.exp(-0.5 * ((t - at - place * wide) / (width * wide)) ** 2) * generator.uniform(0.85, 1.15)
        for lead in range(LEADS):
            signal[:, lead] += sign * heights[lead] * bell


def _one(kind: str, seconds: float, generator: np.random.Generator) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    signal = np.zeros((len(t), LEADS))
    interval, at, beat = 60 / generator.uniform(55, 100), -generator.uniform(0, 1), 0
    phase = generator.integers(4)
    while at < seconds + 1:
        early = kind == "bigeminy" and (beat + phase) % 2 == 1
        if early:  # a ventricular beat: early, wide, without P, its T turned
            _bells(signal, t, at - 0.3 * interval, "QR", generator, wide=3.0)
            _bells(signal, t, at - 0.3 * interval, "T", generator, sign=-1.3, wide=1.3)
        elif kind == "block" and (beat + phase) % 4 == 0:  # the P wave is there, its beat is not
            _bells(signal, t, at, "P", generator)
        else:
            _bells(signal, t, at, "QRST" if kind in ("fibrillation", "flutter") else "PQRST", generator)
        if kind == "fibrillation":
            at += interval * generator.uniform(0.55, 1.5)
        else:
            at += interval * generator.normal(1, 0.03)
        beat += 1
    if kind in ("fibrillation", "flutter"):  # small quick waves between the beats: ragged ones, or a saw
        rate = generator.uniform(4.5, 5.5) if kind == "flutter" else generator.uniform(5, 8)
        wander = np.cumsum(generator.normal(0, 0.15 if kind == "fibrillation" else 0.01, len(t)))
        turn = rate * t + wander / (2 * np.pi)
        signal += (0.12 * (turn % 1 - 0.5) if kind == "flutter" else 0.05 * np.sin(2 * np.pi * turn))[:, None]
    return signal


def windows(rows: int, seconds: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Signals (rows, positions, LEADS) float32 and classes (rows) int64, with drift, hum, noise and random gain."""
    generator = np.random.default_rng(seed)
    kinds = generator.integers(len(CLASSES), size=rows)
    out = []
    for kind in kinds:
        signal = _one(CLASSES[kind], seconds, generator) * generator.uniform(0.6, 1.5)
        t = np.arange(len(signal)) / RATE
        drift = 0.3 * np.sin(2 * np.pi * generator.uniform(0.1, 0.4) * t + generator.uniform(0, 6))
        hum = 0.05 * np.sin(2 * np.pi * 50 * t)
        level = generator.uniform(0.03, 0.15)
        out.append(signal + (drift + hum)[:, None] + level * generator.standard_normal(signal.shape))
    return np.stack(out).astype(np.float32), kinds.astype(np.int64)
