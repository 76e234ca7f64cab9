"""A bundle against the checkpoint it was made from: load both, run the scenarios, judge."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..bundle.manifest import Manifest, read_manifest
from ..checkpoints import Checkpoint, open_checkpoint
from ..errors import ErrorKind, UserError
from ..progress import Stage, no_progress
from ..runtime import open_session
from .perturbation import perturbed
from .prompts import DECODE_STEPS, prompt_pieces, run_prompts
from .references import UpstreamModel
from .report import ValidationReport
from .scenarios import Machines, Scenario, run_scenario
from .texts import TextTokens, read_text
from .tolerance import Tolerance
from .upstream import UpstreamSession, load_upstream
from .verdict import first_fault, judge

ZERO_STEPS, WARM_STEPS, RESET_STEPS = 128, 64, 96
DRIFT_STEPS = 2000
ROWS = 4  # of a bundle with a dynamic batch
_ONE_THREAD = 30_000_000  # parameters: a smaller model's operators are too short to be shared between threads


def validate(
    bundle: Path,
    checkpoint: Path,
    *,
    config: Path | None = None,
    runtime: str = "onnxruntime",
    steps: int | None = None,
    text: Path | None = None,
    batch: int | None = None,
    seed: int = 0,
    ort_library: Path | None = None,
    engine: Path | None = None,
    stage: Stage = no_progress,
) -> ValidationReport:
    """Drive the upstream PyTorch model and a bundle side by side and judge how far they part.

    Args:
        bundle: a folder written by `xlstm-export onnx`.
        checkpoint: the weights that it was made from.
        config: the checkpoint's configuration, where it does not lie in or beside it.
        runtime: what runs the bundle: see `runtime.open_session`, also for `ort_library` and `engine`.
        steps: length of the long run, 2,000 when not given; the others are at most as long.
        text: what the long run reads, and both are scored on; None: random tokens.
        batch: rows side by side; None: the bundle's own, or 4 where it is dynamic.
        seed: of the random inputs and of the perturbation.
        stage: told of the progress.

    Raises:
        UserError: the pair does not belong together, an upstream package or the runtime is not here, or the text is
            unusable.
    """
    started = time.monotonic()
    steps = DRIFT_STEPS if steps is None else steps
    if steps < 1:
        raise UserError(ErrorKind.argument, f"--steps is {steps}; give 1 or more.")
    manifest = read_manifest(bundle)
    rows = batch or manifest.batch or ROWS
    tokens = read_text(text, bundle, manifest, rows, steps) if text is not None else None
    source = open_checkpoint(checkpoint, config)
    tick = stage("Checking that bundle and checkpoint belong together", None)
    digest = check_pair(bundle, manifest, source)
    tick(1)
    tick = stage("Loading the upstream model", None)
    model = load_upstream(source)
    nudged = perturbed(model, getattr(torch, manifest.dtype), seed)
    tick(1)
    shapes = {state.input: state.shape[1:] for state in manifest.states}
    with open_session(bundle, runtime, rows, ort_library, engine) as session, _threads(model):
        machines = Machines(UpstreamSession(model, shapes, rows), UpstreamSession(nudged, shapes, rows), session)
        runs = run_all(machines, manifest, steps, tokens, seed, stage)
    tolerance = Tolerance(manifest.dtype)
    verdicts = tuple(judge(runs, tolerance))
    return ValidationReport(
        bundle=bundle.resolve().name,
        checkpoint=source.path.name,
        checkpoint_sha256=digest,
        family=source.family,
        dtype=manifest.dtype,
        runtime=runtime,
        seed=seed,
        versions=_versions(),
        seconds=time.monotonic() - started,
        tolerance=tolerance,
        runs=runs,
        verdicts=verdicts,
        fault=first_fault(runs, verdicts),
    )


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
            return generator.standard_normal((count, rows, manifest.input.shape[-1]), np.float32)
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


def check_pair(bundle: Path, manifest: Manifest, checkpoint: Checkpoint) -> str:
    """The checkpoint's SHA-256, when it is the one that the bundle was made from.

    Raises:
        UserError: it is another; says in what they differ.
    """
    again = f"Export it again with `xlstm-export onnx {checkpoint.path}`, or give the checkpoint it was made from."
    if manifest.family != checkpoint.family:
        families = f"{bundle} is of family {manifest.family}, {checkpoint.path} of family {checkpoint.family}"
        raise UserError(ErrorKind.argument, f"{families}. {again}")
    ours, theirs = manifest.architecture, _plain(checkpoint.architecture.to_dict())
    if different := list(_differences(ours, theirs)):
        shown = "; ".join(f"{at}: bundle {a}, checkpoint {b}" for at, a, b in different[:4])
        more = f"; and {len(different) - 4} more" if len(different) > 4 else ""
        raise UserError(
            ErrorKind.argument, f"{bundle} and {checkpoint.path} are different models ({shown}{more}). {again}"
        )
    if manifest.source.sha256 is None:
        raise UserError(
            ErrorKind.argument,
            f"{bundle} was made from random weights, without a checkpoint: nothing to compare it with.",
        )
    digest = checkpoint.sha256()
    if digest != manifest.source.sha256:
        raise UserError(
            ErrorKind.argument,
            f"{bundle} was made from other weights ({manifest.source.path}, sha256 {manifest.source.sha256[:12]}...) "
            f"than {checkpoint.path} holds (sha256 {digest[:12]}...). {again}",
        )
    return digest


def _plain(value: object) -> object:
    """As it is after a round trip through JSON."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _differences(a: object, b: object, at: str = "") -> Iterator[tuple[str, object, object]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            yield from _differences(a.get(key), b.get(key), f"{at}.{key}" if at else key)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _differences(x, y, f"{at}[{index}]")
    elif a != b:
        sizes = [f"{len(value)} entries" if isinstance(value, list) else value for value in (a, b)]
        yield at, sizes[0], sizes[1]


@contextmanager
def _threads(model: UpstreamModel) -> Iterator[None]:
    before = torch.get_num_threads()
    if sum(p.numel() for p in model.module.parameters()) < _ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_PACKAGES = "torch xlstm mlstm_kernels transformers onnxruntime onnxruntime-gpu tensorrt-rtx tensorrt".split()


def _versions() -> dict[str, str]:
    found = {"xlstm-export": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
