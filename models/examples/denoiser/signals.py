"""Generated sounds that resemble speech, and noise on them: syllables of gliding pitch behind moving formants."""

import numpy as np

RATE = 8000  # Hz
FRAME = 32  # samples: 4 ms


def voices(rows: int, frames: int, generator: np.random.Generator) -> np.ndarray:
    """Clean sounds, (rows, frames, FRAME) float32, with a root mean square of 0.1 where they sound."""
    samples = frames * FRAME
    t = np.arange(samples) / RATE
    out = np.zeros((rows, samples))
    for row in range(rows):
        pitch = generator.uniform(90, 220) * np.exp(0.15 * np.sin(2 * np.pi * generator.uniform(0.5, 2) * t + row))
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        formants = [
            centre * (1 + 0.2 * np.sin(2 * np.pi * generator.uniform(0.5, 3) * t + generator.uniform(0, 6)))
            for centre in (generator.uniform(300, 800), generator.uniform(900, 2200), generator.uniform(2300, 3200))
        ]
        for harmonic in range(1, 16):
            f = harmonic * pitch
            strength = sum(g / (1 + ((f - c) / 150) ** 2) for g, c in zip((1, 0.6, 0.3), formants, strict=True))
            out[row] += np.where(f < RATE / 2.2, strength, 0) * np.sin(harmonic * phase)
        rhythm = np.sin(2 * np.pi * generator.uniform(2, 5) * t + generator.uniform(0, 6))
        out[row] *= 1 / (1 + np.exp(-8 * (rhythm + 0.3)))
        out[row] *= 0.1 / np.sqrt(np.mean(out[row] ** 2) + 1e-9)
    return out.reshape(rows, frames, FRAME).astype(np.float32)


def noise(rows: int, frames: int, generator: np.random.Generator) -> np.ndarray:
    """White noise through random low-pass filters, (rows, frames, FRAME) float32, root mean square 0.1."""
    white = generator.standard_normal((rows, frames * FRAME))
    spectrum = np.fft.rfft(white)
    corner = generator.uniform(300, 8000, (rows, 1))
    spectrum /= 1 + np.fft.rfftfreq(frames * FRAME, 1 / RATE) / corner
    coloured = np.fft.irfft(spectrum, frames * FRAME)
    coloured *= 0.1 / np.sqrt(np.mean(coloured**2, 1, keepdims=True))
    return coloured.reshape(rows, frames, FRAME).astype(np.float32)


def pairs(rows: int, frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy sounds and clean ones, each (rows, frames, FRAME) float32, at -3 to 9 dB."""
    generator = np.random.default_rng(seed)
    clean = voices(rows, frames, generator)
    level = 10 ** (-generator.uniform(-3, 9, (rows, 1, 1)) / 20)
    return (clean + level * noise(rows, frames, generator)).astype(np.float32), clean


def snr(clean: np.ndarray, other: np.ndarray) -> float:
    """Signal to noise in dB, the mean over rows of (rows, ...)."""
    signal = (clean**2).reshape(len(clean), -1).sum(1)
    rest = ((clean - other) ** 2).reshape(len(clean), -1).sum(1)
    return float(np.mean(10 * np.log10(signal / rest)))
