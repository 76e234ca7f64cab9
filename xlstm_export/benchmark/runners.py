"""What is timed, each alone in its process: the bundle, its peers, and the memory.

A peer gets what its own world offers for a token after another: upstream its `step`, as it is or compiled whole;
transformers' export ONNX Runtime with every input and output bound, which costs less than its own runner in PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ..bundle import Bundle, Manifest
from ..runtime import open_session
from .job import Job
from .memory import MemoryStream, all_threads
from .stopwatch import median_seconds

if TYPE_CHECKING:
    from torch import Tensor


_DRAWS = 16
"""Different inputs, which are fed in turn."""
_PROMPTS = 3


@runtime_checkable
class Stepper(Protocol):
    def step(self) -> object:
        """Feed the next token (or window) of every row."""


def make(job: Job) -> object:
    """Load what the job says; it answers to its public methods."""
    bundle = Bundle.open(job.bundle)
    match job.kind:
        case "memory":
            return _Memory(bundle, job)
        case "bundle":
            return _BundleRunner(bundle, job)
        case "transformers-export":
            from .transformers_export import Export

            return Export(job)
        case "transformers":
            from .transformers_export import ExportRunner

            return ExportRunner(bundle.manifest, job)
        case _:
            return _UpstreamRunner(bundle.manifest, job)


class _Memory:
    def __init__(self, bundle: Bundle, job: Job):
        library = None if job.library is None else Path(job.library)
        states = bundle.manifest.state_bytes(job.batch)
        self._stream = MemoryStream(bundle.step_bytes, states, _threads(), library)

    def stream(self) -> tuple[float, float, float]:
        return self._stream.turn()

    def kind(self) -> str:
        return self._stream.kind


class _BundleRunner:
    def __init__(self, bundle: Bundle, job: Job):
        self._random, self._manifest, self._job = np.random.default_rng(0), bundle.manifest, job
        custom_ops = None if job.custom_ops is None else Path(job.custom_ops)
        self._session = open_session(bundle, job.runtime, job.batch, custom_ops, activations=job.activations)
        self._inputs, self._turn = [self._draw(job.positions) for _ in range(_DRAWS)], 0

    def step(self) -> object:
        self._turn += 1
        return self._session.run(self._inputs[self._turn % _DRAWS])

    def prompt(self, wanted: int) -> tuple[int, float]:
        """Positions of a prompt, as many as are wanted, or of a network as one pass takes; and its seconds."""
        session = self._session
        single = session.manifest.is_single
        positions = wanted if single else min(wanted, session.max_chunk or wanted)
        inputs = self._draw(positions)

        def run() -> None:
            if single:
                (prompts,) = inputs.values()
                session.prefill(list(prompts))
            else:
                session.run(inputs)

        return positions, median_seconds(run, _PROMPTS)

    def forecasts(self) -> dict[str, Any]:
        from .forecasts import time_forecasts

        return asdict(time_forecasts(self._session))

    def _draw(self, positions: int) -> dict[str, np.ndarray]:
        return draw(self._manifest, self._job.batch, positions, self._random)


class _UpstreamRunner:
    """Upstream's own model in PyTorch, its states fed back."""

    def __init__(self, manifest: Manifest, job: Job):
        import torch

        from ..references import build_upstream
        from ..references.load import load_upstream

        assert job.source is not None  # of every peer
        checkpoint = job.source.open()
        if job.source.random:
            model = build_upstream(checkpoint.family, checkpoint.config)
            model.module.eval().requires_grad_(False)
        else:
            model = load_upstream(checkpoint)
        self._step = torch.compile(model.step) if job.kind == "compiled" else model.step
        self._states: Mapping[str, Tensor] = {s.input: torch.zeros(s.sized(job.batch)) for s in manifest.states}
        random = np.random.default_rng(0)
        drawn = (draw(manifest, job.batch, 1, random) for _ in range(_DRAWS))
        self._inputs, self._turn = [torch.from_numpy(inputs[manifest.input.name]) for inputs in drawn], 0

    def step(self) -> object:
        import torch

        self._turn += 1
        with torch.inference_mode():
            outputs, self._states = self._step(self._inputs[self._turn % _DRAWS], dict(self._states))
        return outputs


def draw(manifest: Manifest, batch: int, positions: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Random inputs: normal values, tokens of the vocabulary, or of a network's integers 0 and 1, which any takes."""
    inputs = {}
    for tensor in manifest.inputs:
        shape = tensor.sized(batch, positions)
        if tensor.dtype == "float32":
            inputs[tensor.name] = random.standard_normal(shape, np.float32)
        else:
            inputs[tensor.name] = random.integers(0, manifest.vocab_size or 2, shape).astype(tensor.dtype)
    return inputs


def _threads() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else all_threads()
