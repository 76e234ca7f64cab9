"""Prompts through prefill, then single steps: against upstream token by token, and against its full forward."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .scenarios import Machines, Recorder, Scenario

PIECES = (1, 2, 7, 64, 30, 96)
"""Positions of the prompts that are fed one after the other, each compared at its end."""
CHUNK = 48  # positions of a pass: some pieces need several, none of which ends where another does
DECODE_STEPS = 32


def prompt_pieces(steps: int) -> list[int]:
    """The pieces of `PIECES` that `steps` positions hold; the last one may be cut."""
    pieces, left = [], steps
    for piece in PIECES:
        if left:
            pieces.append(min(piece, left))
            left -= pieces[-1]
    return pieces


def run_prompts(
    machines: Machines, inputs: np.ndarray, pieces: list[int], seed: int, tick: Callable[[int], None] = lambda _: None
) -> tuple[Scenario, ...]:
    """Feed the bundle prompts in pieces, then single steps, and compare it where upstream is as far.

    Every piece goes in by two ragged calls: first each row gets some part of it, possibly nothing, then the rest.

    Args:
        inputs: tokens (T, B) int64, or vectors (T, B, D) float32: the pieces, and what is fed step by step after them.
        seed: of the lengths of the parts.

    Returns:
        `prefill`, against upstream token by token, states included; and `forward`, the outputs at the ends of the
        pieces against upstream's forward over the whole sequence.
    """
    random = np.random.default_rng(seed)
    steps, rows = inputs.shape[:2]
    prompt = sum(pieces)
    machines.reset()
    whole = inputs[:prompt].swapaxes(0, 1)
    reference_forward, nudged_forward = machines.reference.forward(whole), machines.nudged.forward(whole)
    stepped, forward = Recorder(1, machines.output_name), Recorder(1, machines.output_name)
    at = 0
    for size in [*pieces, *[1] * (steps - prompt)]:
        for position in range(at, at + size):
            fed = inputs[position][:, None]
            reference, nudged = (session.step(fed)[:, 0] for session in (machines.reference, machines.nudged))
            tick(1)
        piece = inputs[at : at + size].swapaxes(0, 1)
        if at < prompt:
            counts: list[int] = np.atleast_1d(random.integers(0, size, rows)).tolist()
            machines.bundle.prefill([row[:count] for row, count in zip(piece, counts, strict=True)], CHUNK)
            rest = [row[count:] for row, count in zip(piece, counts, strict=True)]
            actual = machines.bundle.prefill(rest, CHUNK)[:, 0]
        else:
            actual = machines.bundle.step(piece)[:, 0]
        at += size
        stepped.outputs(at - 1, reference, nudged, actual)
        stepped.states(at - 1, machines)
        if at <= prompt:
            forward.outputs(at - 1, reference_forward[:, at - 1], nudged_forward[:, at - 1], actual)
    return (
        stepped.scenario("prefill", f"prompts in passes of {CHUNK}, then steps", rows, steps),
        forward.scenario("forward", "prompts against upstream's full forward", rows, prompt),
    )
