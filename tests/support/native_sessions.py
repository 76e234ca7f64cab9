"""The same inputs through a session in Python and one in C++, by `runtime_driver`. Both on the CPU, with one thread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from support.native import run
from xlstm_export.bundle import Bundle
from xlstm_export.runtime import open_session


def make_inputs(bundle: Path, steps: int, batch: int, seed: int = 0) -> np.ndarray:
    """(steps, batch, 1) int64 or (steps, batch, 1, D) float32."""
    manifest, random = Bundle.open(bundle).manifest, np.random.default_rng(seed)
    if manifest.vocab_size:
        return random.integers(0, manifest.vocab_size, (steps, batch, 1))
    return random.standard_normal((steps, *manifest.input.sized(batch)), dtype=np.float32)


def python_steps(bundle: Path, inputs: np.ndarray, library: Path | None = None) -> np.ndarray:
    with open_session(Bundle.open(bundle), batch=inputs.shape[1], custom_ops=library) as session:
        return np.stack([session.step(step) for step in inputs])


def native_steps(release: Path, bundle: Path, inputs: np.ndarray, folder: Path, *named: str) -> np.ndarray:
    inputs.tofile(folder / "inputs")
    arguments = ["steps", bundle, inputs.shape[1], folder / "inputs", folder / "outputs", "threads=1", *named]
    run(release / "runtime_driver", *arguments)
    shape = Bundle.open(bundle).manifest.output.sized(inputs.shape[1])
    return np.fromfile(folder / "outputs", np.float32).reshape(len(inputs), *shape)


def make_prompts(bundle: Path, lengths: Sequence[int]) -> list[np.ndarray]:
    """A prompt a row, (T) int64 or (T, D) float32."""
    inputs = make_inputs(bundle, max(lengths), len(lengths), seed=1)
    rows = inputs[..., 0] if Bundle.open(bundle).manifest.vocab_size else inputs[:, :, 0]
    return [rows[:length, row] for row, length in enumerate(lengths)]


def python_prefill(
    bundle: Path, prompts: list[np.ndarray], chunk: int | None = None, library: Path | None = None
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Outputs after the prompts, outputs after one more step, of zeros, and the states then."""
    with open_session(Bundle.open(bundle), batch=len(prompts), custom_ops=library) as session:
        spec = session.manifest.input
        after = session.prefill(prompts, chunk)
        following = session.step(np.zeros(spec.sized(len(prompts)), spec.dtype))
        return after, following, session.read_states()


def native_prefill(
    release: Path, bundle: Path, prompts: list[np.ndarray], folder: Path, *named: str
) -> tuple[np.ndarray, np.ndarray]:
    (folder / "inputs").write_bytes(b"".join(prompt.tobytes() for prompt in prompts))
    lengths = ",".join(str(len(prompt)) for prompt in prompts)
    files = (folder / "inputs", folder / "outputs")
    run(release / "runtime_driver", "prefill", bundle, lengths, *files, "threads=1", *named)
    shape = Bundle.open(bundle).manifest.output.sized(len(prompts))
    after, following = np.fromfile(folder / "outputs", np.float32).reshape(2, *shape)
    return after, following
