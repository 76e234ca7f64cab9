"""What `xlstm-export bench` measures: a bundle's steps, for each batch, beside its peers and what the memory allows.

A step must read every weight once, and read and write every state once. Both are measured in the same rounds as the
steps, on buffers of the model's own size (`memory`): a step that takes 1.0 times that limit does nothing but move its
bytes. The machine was too noisy to conclude where the limit varied from round to round by more than a tenth, or where
other programs had the processors for more than a twentieth of its time: a steady load slows threads that wait for each
other by far more than a stream of memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from ..bundle import Bundle
from ..bundle.engine_record import ACTIVATIONS, Activations
from ..bundle.manifest import NETWORK
from ..errors import ErrorKind, UserError
from ..nvidia.driver import list_gpus
from ..progress import Stage, no_progress
from ..runtime import RuntimeName
from .contender import Contender
from .forecasts import ForecastTiming
from .job import Job, Peer, Source
from .rounds import ROUNDS, Limit, Timing, start, take_turns

BUNDLE = "bundle"
PEERS: tuple[Peer, ...] = get_args(Peer)
"""PyTorch running upstream's own code, the same through torch.compile, and transformers' own ONNX export."""


@dataclass(frozen=True)
class BenchOptions:
    """What is timed, and on what."""

    runtime: RuntimeName = "onnxruntime"
    batches: tuple[int, ...] = (1,)
    steps: int = 200
    prompt: int = 512
    """Positions of a prompt (not in mode `step`, which has no other way than steps); of one pass of a network that
    streams; of each window, where that may have any length. 0: no prompt."""
    threads: int | None = None
    """None: what each takes by itself, which is all for the memory."""
    against: tuple[Peer, ...] = ()
    source: Source | None = None
    """What the peers are made of."""
    custom_ops: Path | None = None
    activations: Activations = ACTIVATIONS
    """What quantised weights are multiplied with."""
    library: Path | None = None
    """With the compiled memory streams; None: NumPy's."""


@dataclass(frozen=True)
class BatchResult:
    """All timings with so many rows."""

    batch: int
    limit: Limit
    timings: tuple[Timing, ...]
    """The bundle's first."""
    prompt: int
    """Positions of a row's prompt; 0: none was timed."""
    prompt_seconds: float
    forecasts: ForecastTiming | None

    @property
    def bundle(self) -> Timing:
        return self.timings[0]


@dataclass(frozen=True)
class Benchmark:
    """What was measured. A step is one position of every row; of a bundle of mode `window`, one window of every row."""

    bundle: str
    family: str
    dtype: str
    runtime: str
    activations: Activations | None
    """What quantised weights were multiplied with; None: they are not quantised."""
    mode: str
    positions: int
    """Of a timed pass: 1, or those of a window; 0 where a window's sizes are fixed."""
    threads: int | None
    on_cpu: bool
    """Else the limit is the host's, and nothing is held against it."""
    stream: str
    """What measured the memory: `compiled` or `NumPy`."""
    batches: tuple[BatchResult, ...]
    missing: dict[str, str]
    """Peers that could not be timed, and why."""


def run_bench(bundle: Bundle, options: BenchOptions = BenchOptions(), stage: Stage = no_progress) -> Benchmark:
    """Time a bundle, and its peers beside it, each in a process of its own, in turns.

    Args:
        bundle: a language model, a forecaster, or a network of any mode.
        options: what is timed.
        stage: told of the progress.

    Raises:
        UserError: the bundle cannot be run so, or peers are asked for that it cannot have. A peer that fails is
            reported in the result.
    """
    manifest = bundle.manifest
    _check(bundle, options)
    windows = manifest.mode == "window"
    positions = 1
    if windows:
        positions = max(options.prompt, 1) if any(t.time_axis is not None for t in manifest.inputs) else 0
    job = Job(
        "bundle",
        str(bundle.path.resolve()),
        0,
        max(positions, 1),
        options.runtime,
        None if options.custom_ops is None else str(options.custom_ops.resolve()),
        options.activations,
        options.source,
        library=None if options.library is None else str(options.library.resolve()),
    )
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        job = replace(job, folder=folder)
        if "transformers" in options.against:
            stage("Exporting with transformers", None)
            _try("transformers", replace(job, kind="transformers-export"), options, missing)
        stream, results = "", []
        for batch in options.batches:
            result, stream = _run_batch(bundle, replace(job, batch=batch), options, missing, stage)
            results.append(result)
    return Benchmark(
        bundle.path.resolve().name,
        manifest.family,
        manifest.dtype,
        options.runtime,
        None if manifest.quantization is None else options.activations,
        manifest.mode,
        positions,
        options.threads,
        options.runtime == "onnxruntime" and not list_gpus(),
        stream,
        tuple(results),
        missing,
    )


def _check(bundle: Bundle, options: BenchOptions) -> None:
    """Whether the peers can be made."""
    if not options.against:
        return
    if bundle.manifest.family == NETWORK or bundle.manifest.forecast is not None:
        raise UserError(
            ErrorKind.argument, f"--against is for language models and block stacks, which {bundle.path} is not."
        )
    if options.source is None:
        raise UserError(
            ErrorKind.argument,
            "--against needs --checkpoint CKPT: what the bundle was made from, or a configuration of its shape.",
        )
    from ..references.load import check_architecture  # torch, which a process that is timed shall not have

    check_architecture(bundle, options.source.open())


def _run_batch(
    bundle: Bundle, job: Job, options: BenchOptions, missing: dict[str, str], stage: Stage
) -> tuple[BatchResult, str]:
    manifest, batch = bundle.manifest, job.batch
    stage(f"Loading, batch {batch}", None)
    with ExitStack() as stack:
        memory, ours = start(stack, [("memory", replace(job, kind="memory")), (BUNDLE, job)], options.threads)
        contenders = [ours]
        for peer in options.against:
            if peer not in missing and (started := _try(peer, replace(job, kind=peer), options, missing, stack)):
                contenders.append(started)
        turns = (1 + len(contenders)) * min(ROUNDS, options.steps)
        tick = stage(f"Taking turns, batch {batch}", turns)
        timings, seconds = take_turns(contenders, memory, options.steps, tick)
        prompt, prompt_seconds = 0, 0.0
        if options.prompt and manifest.mode not in ("step", "window"):
            prompt, prompt_seconds = ours.ask("prompt", wanted=options.prompt)
        forecasts = ForecastTiming(**ours.ask("forecasts")) if manifest.forecast else None
        stream = str(memory.ask("kind"))
    limit = Limit(bundle.step_bytes, manifest.state_bytes(batch), *zip(*seconds, strict=True))
    return BatchResult(batch, limit, tuple(timings), prompt, prompt_seconds, forecasts), stream


def _try(
    peer: Peer, job: Job, options: BenchOptions, missing: dict[str, str], stack: ExitStack | None = None
) -> Contender | None:
    """The peer's process; where it fails, the reason is noted, and the others are timed all the same."""
    try:
        contender = Contender(peer, job, options.threads)
    except UserError as error:
        if error.kind is ErrorKind.argument:
            raise
        missing[peer] = str(error)
        return None
    if stack is None:
        contender.close()
        return None
    return stack.enter_context(contender)


def parse_peers(text: str) -> tuple[Peer, ...]:
    """`upstream,compiled` → the two.

    Raises:
        UserError: one is none.
    """
    names: Sequence[Any] = text.split(",")
    if wrong := [name for name in names if name not in PEERS]:
        raise UserError(ErrorKind.argument, f"--against names {wrong[0]!r}: choose from {', '.join(PEERS)}.")
    return tuple(names)
