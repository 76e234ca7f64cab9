"""What `xlstm-export compare` measures: size on disk, quality against the reference, and speed in turns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..benchmark.job import Job
from ..benchmark.rounds import Limit, Timing, start, take_turns
from ..bundle import Bundle
from ..bundle.engine_record import ACTIVATIONS, Activations
from ..bundle.manifest import MODEL_FILE
from ..errors import ErrorKind, UserError
from ..progress import Stage, no_progress
from ..runtime import RuntimeName, open_session
from ..validation.texts import read_text
from .quality import Quality, measure_quality

ROWS = 4  # of bundles with a dynamic batch


@dataclass(frozen=True)
class CompareOptions:
    """What is run, and on what."""

    text: Path | None = None
    """What is read; None: random tokens."""
    steps: int = 2000
    """Of the quality run, a row."""
    timed_steps: int = 200
    runtime: RuntimeName = "onnxruntime"
    threads: int | None = None
    custom_ops: Path | None = None
    activations: Activations = ACTIVATIONS
    library: Path | None = None
    """With the compiled memory streams."""
    seed: int = 0
    """Of the random tokens."""


@dataclass(frozen=True)
class Variant:
    """One bundle."""

    name: str
    weights: str
    """`float16`, `int4 / 32`: four bits in blocks of 32."""
    is_quantised: bool
    disk_bytes: int
    """Of graph and weights."""
    bits_per_weight: float | None
    """Of all weights; None: how many there are is not known, as the reference is quantised itself."""
    step_bytes: int
    """Of weights that a step reads."""
    quality: Quality
    timing: Timing


@dataclass(frozen=True)
class Comparison:
    """All variants, in the order given."""

    variants: tuple[Variant, ...]
    reference: int
    """Which the others are held against: the first in float32, else the first."""
    rows: int
    steps: int
    text: str | None
    text_bytes: int
    timed_batch: int
    limit: Limit
    """Of the reference's bytes."""
    runtime: str
    activations: str
    notes: tuple[str, ...]

    def times_limit(self, variant: Variant) -> float:
        """How many times as long as moving its own bytes a variant's step takes."""
        scale = variant.step_bytes / self.limit.weight_bytes
        own = np.add(np.multiply(self.limit.read, scale), self.limit.update)
        return variant.timing.ratio(own.tolist())

    def speed(self, variant: Variant) -> float:
        """How many times as fast as the reference."""
        return 1 / variant.timing.ratio(self.variants[self.reference].timing.medians)


def compare_bundles(
    bundles: Sequence[Bundle], options: CompareOptions = CompareOptions(), stage: Stage = no_progress
) -> Comparison:
    """Run variants of a model side by side.

    Args:
        bundles: two or more of one model, each with one input of positions and one output.
        options: what is run.
        stage: told of the progress.

    Raises:
        UserError: they are not of one model, or not of that kind, or the text is unusable.
    """
    tick = stage("Checking that the bundles are of one model", None)
    notes = check_one_model(bundles)
    tick(1)
    plain = [b.manifest.dtype == "float32" and b.manifest.quantization is None for b in bundles]
    reference = plain.index(True) if True in plain else 0
    first, batches = bundles[reference], {b.manifest.batch for b in bundles} - {None}
    if len(batches) > 1:
        raise UserError(ErrorKind.argument, f"the bundles have fixed batches of {batches}: compare those of one batch.")
    rows = next(iter(batches), ROWS) or ROWS
    text = None if options.text is None else read_text(options.text, first, rows, options.steps)
    inputs = text.inputs if text else _random_inputs(first, rows, options)
    tick = stage("Running all, token by token", len(inputs))
    with ExitStack() as stack:
        how = (options.runtime, rows, options.custom_ops, None, options.activations)
        sessions = [stack.enter_context(open_session(bundle, *how)) for bundle in bundles]
        qualities = measure_quality(sessions, reference, inputs, text, tick)
    batch = next(iter(batches), 1) or 1
    timings, limit = _time(bundles, reference, batch, options, stage)
    parameters = _parameters(first) if first.manifest.quantization is None else None
    variants = tuple(
        Variant(
            str(bundle.path),
            describe_weights(bundle),
            bundle.manifest.quantization is not None,
            sum((bundle.path / name).stat().st_size for name in (MODEL_FILE, *bundle.manifest.weight_files)),
            8 * sum(bundle.weight_sizes.values()) / parameters if parameters else None,
            bundle.step_bytes,
            quality,
            timing,
        )
        for bundle, quality, timing in zip(bundles, qualities, timings, strict=True)
    )
    name = None if options.text is None else options.text.name
    size = text.bytes if text else 0
    run = (rows, len(inputs), name, size, batch, limit, options.runtime, options.activations)
    return Comparison(variants, reference, *run, notes)


def check_one_model(bundles: Sequence[Bundle]) -> tuple[str, ...]:
    """Refuse bundles that are not of one checkpoint; returns what is not known.

    Raises:
        UserError: they are not.
    """
    if len(bundles) < 2:
        raise UserError(ErrorKind.argument, "compare needs two bundles or more.")
    first, notes = bundles[0], []
    for bundle in bundles:
        if not bundle.manifest.is_single or bundle.manifest.forecast is not None:
            raise UserError(
                ErrorKind.argument,
                f"{bundle.path} is no language model or block stack: compare runs nothing else, validate does.",
            )
        manifest = bundle.manifest
        random = manifest.source.sha256 is None and first.manifest.source.sha256 is None
        same = manifest.architecture == first.manifest.architecture if random else bundle.model_hash == first.model_hash
        if not same:
            raise UserError(
                ErrorKind.argument,
                f"{bundle.path} and {first.path} are not of one model: architecture or checkpoint differ "
                f"({manifest.source.path} and {first.manifest.source.path}). Compare bundles of one checkpoint.",
            )
        if random:
            notes.append("the weights are random, and of one seed only if you made them so.")
    return tuple(dict.fromkeys(notes))


def describe_weights(bundle: Bundle) -> str:
    """`float32`, or what the matrices became."""
    how = bundle.manifest.quantization
    return bundle.manifest.dtype if how is None else f"{how['weights']} / {how['block_size']}"


def _random_inputs(bundle: Bundle, rows: int, options: CompareOptions) -> np.ndarray:
    manifest, random = bundle.manifest, np.random.default_rng(options.seed)
    if manifest.vocab_size is None:
        return random.standard_normal((options.steps, rows, manifest.input_width), np.float32)
    return random.integers(0, manifest.vocab_size, (options.steps, rows))


def _time(
    bundles: Sequence[Bundle], reference: int, batch: int, options: CompareOptions, stage: Stage
) -> tuple[list[Timing], Limit]:
    custom_ops = None if options.custom_ops is None else str(options.custom_ops.resolve())
    library = None if options.library is None else str(options.library.resolve())

    def job(bundle: Bundle, kind: str) -> Job:
        path = str(bundle.path.resolve())
        return Job(
            kind,  # type: ignore[arg-type]
            path,
            batch,
            runtime=options.runtime,
            custom_ops=custom_ops,
            activations=options.activations,
            library=library,
        )

    jobs = [(str(bundle.path), job(bundle, "bundle")) for bundle in bundles]
    first = bundles[reference]
    with ExitStack() as stack:
        stage("Loading each in a process of its own", None)
        memory, *contenders = start(stack, [("memory", job(first, "memory")), *jobs], options.threads)
        tick = stage("Taking turns", None)
        timings, seconds = take_turns(contenders, memory, options.timed_steps, tick)
    return timings, Limit(first.step_bytes, first.manifest.state_bytes(batch), *zip(*seconds, strict=True))


def _parameters(bundle: Bundle) -> int:
    return sum(math.prod(t.dims) for t in bundle.graph.graph.initializer if t.name in bundle.weight_sizes)
