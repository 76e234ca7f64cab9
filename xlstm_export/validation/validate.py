"""A bundle against the checkpoint it was made from: load both, run the scenarios, judge."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..bundle import Bundle, Manifest
from ..bundle.engine_record import ACTIVATIONS, Activations
from ..bundle.manifest import NETWORK
from ..checkpoints import Checkpoint
from ..errors import ErrorKind, UserError
from ..forecasting import Forecaster
from ..progress import Stage, no_progress
from ..references.load import check_pair, load_upstream
from ..runtime import RuntimeName, open_session
from .forecasts import run_forecasts
from .perturbation import perturbed
from .prompts import DECODE_STEPS, prompt_pieces, run_prompts
from .receipts import ReceiptCheck, check_receipt
from .report import ValidationReport
from .scenarios import Machines, Scenario, run_scenario
from .surroundings import threads_for, versions
from .texts import TextTokens, read_text
from .tolerance import Quantization, Tolerance
from .upstream import UpstreamSession
from .verdict import first_fault, judge

ZERO_STEPS, WARM_STEPS, RESET_STEPS = 128, 64, 96
DRIFT_STEPS = 2000
ROWS = 4  # of a bundle with a dynamic batch


@dataclass(frozen=True)
class ValidationOptions:
    """What is run, and on what."""

    runtime: RuntimeName = "onnxruntime"
    """What runs the bundle."""
    custom_ops: Path | None = None
    """The custom-op library for ONNX Runtime; None runs the cells' definitions."""
    steps: int = DRIFT_STEPS
    """Length of the long run; the others are at most as long."""
    text: Path | None = None
    """What the long run reads, and both are scored on; None: random tokens."""
    batch: int | None = None
    """Rows side by side; None: the bundle's own, or 4 where it is dynamic."""
    seed: int = 0
    """Of the random inputs and of the perturbation."""
    activations: Activations = ACTIVATIONS
    """What ONNX Runtime multiplies quantised weights with."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(ErrorKind.argument, f"--steps is {self.steps}; give 1 or more.")


USUAL = ValidationOptions()


def validate(
    bundle: Bundle, source: Checkpoint, options: ValidationOptions = USUAL, stage: Stage = no_progress
) -> ValidationReport:
    """Drive the upstream PyTorch model and a bundle side by side and judge how far they part.

    Args:
        bundle: the bundle.
        source: the checkpoint that it was made from.
        options: what is run.
        stage: told of the progress.

    Raises:
        UserError: the pair does not belong together, an upstream package or the runtime is not here, or the text is
            unusable.
    """
    started = time.monotonic()
    manifest, seed = bundle.manifest, options.seed
    rows = options.batch or manifest.batch or ROWS
    tokens = read_text(options.text, bundle, rows, options.steps) if options.text is not None else None
    if manifest.family == NETWORK:
        raise UserError(
            ErrorKind.argument,
            f"{bundle.path} is a network of your own, which no checkpoint describes alone: name the module that it was "
            "made from with --module package.module:factory --weights CKPT.",
        )
    tick = stage("Checking that bundle and checkpoint belong together", None)
    digest = check_pair(bundle, source)
    receipt = check_receipt(bundle, source.companions)
    tick(1)
    tick = stage("Loading the upstream model", None)
    model = load_upstream(source)
    nudged = perturbed(model, getattr(torch, manifest.coarsest_dtype), seed, Quantization.of(manifest))
    tick(1)
    shapes = {state.input: state.sized(1)[1:] for state in manifest.states}
    with (
        open_session(bundle, options.runtime, rows, options.custom_ops, activations=options.activations) as session,
        threads_for(model.module),
    ):
        machines = Machines(UpstreamSession(model, shapes, rows), UpstreamSession(nudged, shapes, rows), session)
        runs = run_all(machines, manifest, options.steps, tokens, seed, stage)
        if manifest.forecast is not None:
            tick = stage("Forecasting with both", None)
            *others, drift = runs
            runs = (*others, *run_forecasts(Forecaster(session), model, nudged, seed), drift)
            tick(1)
    return conclude(bundle, options, runs, started, source.path.name, digest, receipt=receipt)


def conclude(
    bundle: Bundle,
    options: ValidationOptions,
    runs: tuple[Scenario, ...],
    started: float,
    checkpoint: str,
    digest: str | None,
    reference: str = "upstream",
    notes: tuple[str, ...] = (),
    receipt: ReceiptCheck | None = None,
) -> ValidationReport:
    """Judge the runs; arguments as the fields of the report, `started` on the monotonic clock."""
    manifest = bundle.manifest
    tolerance = Tolerance(manifest.coarsest_dtype, Quantization.of(manifest))
    verdicts = tuple(judge(runs, tolerance))
    return ValidationReport(
        bundle=bundle.path.resolve().name,
        checkpoint=checkpoint,
        checkpoint_sha256=digest,
        family=manifest.family,
        dtype=manifest.dtype,
        state_dtype=manifest.state_dtype,
        runtime=options.runtime,
        seed=options.seed,
        versions=versions(),
        seconds=time.monotonic() - started,
        tolerance=tolerance,
        runs=runs,
        verdicts=verdicts,
        fault=first_fault(runs, verdicts),
        reference=reference,
        notes=(*notes, *_notes(bundle, options)),
        receipt=receipt,
    )


def _notes(bundle: Bundle, options: ValidationOptions) -> tuple[str, ...]:
    """What whoever reads the report of a quantised bundle must know."""
    if bundle.manifest.quantization is None:
        return ()
    exact = {"float32": "exact", "int8": "which are rounded, too"}[options.activations]
    return (f"quantised weights are multiplied with {options.activations} activations, {exact}.",)


def run_all(
    machines: Machines, manifest: Manifest, steps: int, text: TextTokens | None, seed: int, stage: Stage
) -> tuple[Scenario, ...]:
    """From zeros, from the reference's warm states, with rows reset in a warm batch, prompts, and a long run."""
    rows = machines.reference.batch
    generator = np.random.default_rng(seed)
    zero_steps, warm_steps, reset_steps = (min(steps, most) for most in (ZERO_STEPS, WARM_STEPS, RESET_STEPS))
    long = text.steps if text else steps
    pieces = prompt_pieces(steps) if manifest.mode != "step" else []
    prompt_steps = sum(pieces) + min(steps, DECODE_STEPS) if pieces else 0
    tick = stage("Running both, token by token", zero_steps + warm_steps + reset_steps + prompt_steps + long)

    def inputs(count: int) -> np.ndarray:
        if manifest.vocab_size is None:
            return generator.standard_normal((count, rows, manifest.input_width), np.float32)
        return generator.integers(0, manifest.vocab_size, (count, rows))

    zeros = run_scenario(machines, inputs(zero_steps), name="zeros", what="from zeros", tick=tick)
    warm_states = machines.reference.read_states()
    warm = run_scenario(
        machines,
        inputs(warm_steps),
        name="warm",
        what="each step from upstream's warm states",
        start=warm_states,
        locked=True,
        tick=tick,
    )
    first, second = reset_steps // 3, 2 * reset_steps // 3
    reset = run_scenario(
        machines,
        inputs(reset_steps),
        name="reset",
        what=f"from warm states, rows reset at {first} and {second}",
        start=warm_states,
        resets={first: 0, second: rows - 1},
        tick=tick,
    )
    prompts = run_prompts(machines, inputs(prompt_steps), pieces, seed, tick) if pieces else ()
    drift = run_scenario(
        machines,
        text.inputs if text else inputs(long),
        name="drift",
        what="long run, text" if text else "long run",
        targets=text.targets if text else None,
        text_bytes=text.bytes if text else 0,
        tick=tick,
    )
    return zeros, warm, reset, *prompts, drift
