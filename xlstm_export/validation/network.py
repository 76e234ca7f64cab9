"""A bundle of a user's own network against the network itself: whole sequences, steps, chunks, ragged rows, resets.

Two things are compared at once: that the bundle computes what the module does, and that carrying its states from pass
to pass is the same as seeing the whole sequence. Which of the two fails shows in the run that fails first. The states
that a run ends with are held against those of the module's lifted form, which reads all in one pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..bundle import Bundle, Manifest
from ..bundle.manifest import NETWORK
from ..errors import ErrorKind, UserError
from ..networks import decide, digest, load_module, parse_inputs
from ..networks.copies import copy_network
from ..networks.inputs import largest_integer
from ..networks.plan import Plan
from ..progress import Advance, Stage, no_progress
from ..runtime import Session, open_session
from .network_reference import NetworkReference
from .network_runs import Feeding, References, run_passes, run_windows
from .perturbation import perturb
from .receipts import check_receipt
from .report import ValidationReport
from .scenarios import Scenario
from .surroundings import threads_for
from .tolerance import Quantization
from .validate import ROWS, USUAL, ValidationOptions, conclude

WHOLE, STEPS = 128, 64
CHUNKS = (1, 1, 5, 20, 13, 2, 32, 7)
"""Positions of passes, from the start again where they are used up."""
LONG_CHUNK = 64
WINDOWS = (5, 16, 33, 64, 100, 250)
_PROBES = (17, 83, 307)
"""Lengths at which a module is tried first: some refuse short ones."""
_UNROUNDED = "TiRex' sLSTM cells round to bfloat16 in the module as shipped; the reference computes them without that."


def validate_network(
    bundle: Bundle,
    module: nn.Module | tuple[str, Path | None],
    options: ValidationOptions = USUAL,
    name: str | None = None,
    stage: Stage = no_progress,
) -> ValidationReport:
    """Drive a user's module and the bundle that was made from it side by side and judge how far they part.

    Args:
        bundle: of family `network`.
        module: the module, with the weights that the bundle was made with, which stays as it is; or what makes it, as
            `networks.load_module` takes it: `package.module:factory` and the checkpoint of its weights.
        options: what is run; `text` has no place.
        name: what the report calls the module; None: its class, or its factory.
        stage: told of the progress.

    Raises:
        UserError: the bundle is of something else or was made of other weights, the module fails on random inputs, or
            the runtime is not here.
    """
    started = time.monotonic()
    manifest = bundle.manifest
    if manifest.family != NETWORK:
        raise UserError(
            ErrorKind.argument,
            f"{bundle.path} is a bundle of family {manifest.family}, made from a checkpoint: name that with "
            "--checkpoint CKPT instead of a module.",
        )
    if options.text is not None:
        raise UserError(ErrorKind.argument, f"{bundle.path} is a network, which reads no text: leave --text out.")
    if isinstance(module, tuple):
        name, module = name or module[0], load_module(*module)
    tick = stage("Checking that bundle and module belong together", None)
    digest, notes = check_module(bundle, module)
    receipt = check_receipt(bundle, ())
    tick(1)
    references, more = make_references(module, manifest, options.seed)
    tick = stage("Running both", None)
    with threads_for(module):
        run = _windows if manifest.mode == "window" else _stream
        runs, limits = run(bundle, references, options, tick)
    reference = f"the module itself in {str(references.module.dtype).removeprefix('torch.')}"
    notes = (*notes, *more, *limits)
    return conclude(bundle, options, runs, started, name or type(module).__name__, digest, reference, notes, receipt)


def check_module(bundle: Bundle, module: nn.Module) -> tuple[str | None, tuple[str, ...]]:
    """The digest of the module's weights, when the bundle was made of them; and what cannot be told.

    Raises:
        UserError: the bundle was made of other weights.
    """
    made_of = bundle.manifest.source.sha256
    if made_of is None:
        return None, ("The bundle does not say of which weights it was made.",)
    if (here := digest(module)) != made_of:
        raise UserError(
            ErrorKind.argument,
            f"{bundle.path} was made from other weights (sha256 {made_of[:12]}...) than the module holds "
            f"(sha256 {here[:12]}...). Load the weights that it was made with, or export the module again.",
        )
    return made_of, ()


def make_references(module: nn.Module, manifest: Manifest, seed: int) -> tuple[References, tuple[str, ...]]:
    """The module in float64, or in float32 where its code fails in float64, and notes on that.

    Raises:
        UserError: it fails in both.
    """
    integers = largest_integer(module)
    dtype, quantization = getattr(torch, manifest.coarsest_dtype), Quantization.of(manifest)
    nudge = partial(perturb, dtype=dtype, seed=seed, quantization=quantization)
    nudged = NetworkReference(module, manifest, torch.float32, nudge)
    axes, plan = _input_axes(manifest), _plan(module, manifest)
    notes = (_UNROUNDED,) if nudged.unrounded else ()
    wide = References(NetworkReference(module, manifest, torch.float64), nudged, integers, axes, plan)
    try:
        return _with_output_axes(wide, _probe(wide, _PROBES)), notes
    except UserError as error:
        in_float64 = str(error)
    narrow = References(NetworkReference(module, manifest, torch.float32), nudged, integers, axes, plan)
    note = f"The module ran in float32, since it fails in float64: {in_float64}"
    return _with_output_axes(narrow, _probe(narrow, _PROBES)), (*notes, note)


def _plan(module: nn.Module, manifest: Manifest) -> Plan | None:
    """Found out as it was for the export; None where a bundle has no states, or names no module that they are of."""
    if not manifest.states or not manifest.architecture.get("cells"):
        return None
    return decide(copy_network(module).eval(), parse_inputs(manifest.architecture["inputs"])).plan


def _input_axes(manifest: Manifest) -> dict[str, int | None]:
    """As the manifest has them, or in mode `step` as the inputs were described when the module was exported."""
    if manifest.mode != "step":
        return {tensor.name: tensor.time_axis for tensor in manifest.inputs}
    described = {one.name: one.time_axis for one in parse_inputs(manifest.architecture.get("inputs") or ["x=B"])}
    return {tensor.name: described.get(tensor.name) for tensor in manifest.inputs}


def _with_output_axes(references: References, positions: int) -> References:
    """In mode `step` the axis of an output is that on which the module has all positions, and the bundle has one."""
    manifest, axes = references.module.manifest, dict(references.axes)
    if manifest.mode != "step" or references.stepping:
        axes |= {tensor.name: tensor.time_axis for tensor in manifest.outputs}
        return replace(references, axes=axes)
    whole = references.module.sequence(_random_row(references, positions))
    for tensor in manifest.outputs:
        pairs = enumerate(zip(tensor.sized(1), whole[tensor.name].shape, strict=True))
        axes[tensor.name] = next((axis for axis, (one, all_) in pairs if (one, all_) == (1, positions)), None)
    return replace(references, axes=axes)


def _random_row(references: References, positions: int) -> dict[str, np.ndarray]:
    inputs, random = references.module.manifest.inputs, np.random.default_rng(0)
    return {t.name: references.draw(t, (1, *references.shape(t, 1, positions)[1:]), random) for t in inputs}


def _probe(references: References, lengths: Iterable[int]) -> int:
    """The first of some lengths that the module accepts.

    Raises:
        UserError: it accepts none.
    """
    refused = None
    for length in lengths:
        row = _random_row(references, length)
        try:
            references.module.steps([row, row]) if references.stepping else references.module.sequence(row)
            return length
        except UserError as error:
            refused = refused or error
    assert refused is not None, "there is a length to try"
    raise refused


def _stream(
    bundle: Bundle, references: References, options: ValidationOptions, tick: Advance
) -> tuple[tuple[Scenario, ...], tuple[str, ...]]:
    manifest = bundle.manifest
    rows = options.batch or manifest.batch or ROWS
    random = np.random.default_rng(options.seed)
    most = options.steps if references.stepping else _longest(references, options.steps)
    notes = () if most == options.steps else (f"The module takes no more than {most} positions; runs end there.",)
    with open_session(bundle, options.runtime, rows, options.custom_ops, activations=options.activations) as session:

        def run(name: str, what: str, passes: list[Feeding]) -> Scenario:
            return run_passes(session, references, passes, name, what, random, tick)

        if manifest.mode == "step":
            return (
                run("steps", "steps from zeros", _passes([1] * min(most, WHOLE), rows)),
                run("reset", "steps, rows reset on the way", _with_resets([1] * min(most, WHOLE), rows)),
                run("drift", "long run", _passes([1] * most, rows)),
            ), notes
        chunk = session.max_chunk or most
        whole, sizes = min(most, WHOLE), _sizes(CHUNKS, min(most, WHOLE), chunk)
        runs = (
            run("whole", "whole sequences", _passes(_sizes((whole,), whole, chunk), rows)),
            run("steps", "step by step", _passes([1] * min(most, STEPS), rows)),
            run("chunks", f"in chunks of {', '.join(map(str, sizes[:5]))}, ...", _passes(sizes, rows)),
            run("ragged", "rows of different lengths", _ragged(whole, rows, min(chunk, 17), random)),
            run("reset", "in chunks, rows reset on the way", _with_resets(sizes, rows)),
            run("drift", "long run", _passes(_sizes((LONG_CHUNK, 1), most, chunk), rows)),
        )
        return runs, notes


def _windows(
    bundle: Bundle, references: References, options: ValidationOptions, tick: Advance
) -> tuple[tuple[Scenario, ...], tuple[str, ...]]:
    manifest = bundle.manifest
    rows = options.batch or manifest.batch or ROWS
    batches = [rows] if manifest.batch is not None or rows == 1 else [1, rows]
    random = np.random.default_rng(options.seed)
    sized = any(tensor.time_axis is not None for tensor in manifest.inputs)
    with ExitStack() as opened:
        sessions: list[Session] = [
            opened.enter_context(
                open_session(bundle, options.runtime, batch, options.custom_ops, activations=options.activations)
            )
            for batch in batches
        ]
        most = min(options.steps, sessions[0].max_chunk or options.steps)
        lengths = [n for n in WINDOWS if n <= most] or [most]
        taken, refused = [], []
        for length in lengths if sized else [1]:
            try:
                _probe(references, (length,))
                taken.append(length)
            except UserError:
                refused.append(length)
        if not taken:
            _probe(references, lengths)  # raises what the module says
        runs = tuple(run_windows(sessions, references, length, random, tick) for length in taken)
    notes = f"The module itself refuses windows of {', '.join(map(str, refused))} positions."
    return runs, (notes,) if refused else ()


def _longest(references: References, steps: int) -> int:
    """The longest sequence that the module takes, by halves."""
    return _probe(references, [steps >> halves for halves in range(steps.bit_length())])


def _sizes(pattern: tuple[int, ...], total: int, most: int) -> list[int]:
    """Passes of these sizes again and again, none above `most`, until they hold `total` positions."""
    sizes: list[int] = []
    while (left := total - sum(sizes)) > 0:
        sizes.append(min(pattern[len(sizes) % len(pattern)], left, most))
    return sizes


def _passes(sizes: list[int], rows: int) -> list[Feeding]:
    return [Feeding((size,) * rows) for size in sizes]


def _ragged(total: int, rows: int, most: int, random: np.random.Generator) -> list[Feeding]:
    """Passes in which every row has a length of its own, some of them none, until one row has `total` positions."""
    passes: list[Feeding] = []
    fed = np.zeros(rows, int)
    while fed.max() < total:
        lengths = np.minimum(random.integers(0, most + 1, rows), total - fed)
        if lengths.max() > 0:
            passes.append(Feeding(tuple(lengths.tolist())))
            fed += lengths
    return passes


def _with_resets(sizes: list[int], rows: int) -> list[Feeding]:
    """The first row is reset after a third of the passes, the last after two thirds."""
    passes, third = _passes(sizes, rows), len(sizes) // 3
    for at, row in ((third, 0), (2 * third, rows - 1)):
        passes[at] = Feeding(passes[at].lengths, (row,))
    return passes
