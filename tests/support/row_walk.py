"""A walk at random over all that a session does with some of its rows, beside a session of one row."""

from __future__ import annotations

import numpy as np

from xlstm_export.runtime import Session


def walk_over_rows(session: Session, alone: Session, operations: int, most: int, seed: int = 0) -> int:
    """Passes over ranges of rows, copies, exchanges and resets. Outputs and states must be what each row gets alone.

    Args:
        session, alone: of one bundle, `alone` with a batch of 1, whose numbers are the reference.
        most: positions of a pass.

    Returns:
        The number of passes over rows of which some had sat out the pass before.
    """
    random, manifest, batch = np.random.default_rng(seed), session.manifest, session.batch
    # Products over other numbers of rows are rounded otherwise; in half precision a state may take the next number.
    tolerance = 1e-4 if manifest.state_dtype == "float32" else 0.05
    alone.reset()
    states = [alone.read_states() for _ in range(batch)]
    passes, rejoined = np.zeros(batch, int), 0
    for _ in range(operations):
        one, other = random.integers(0, batch, 2)
        match random.integers(0, 8):
            case 0:
                session.copy_row(one, other)
                states[other], passes[other] = states[one], passes[one]
            case 1:
                session.swap_rows(one, other)
                states[one], states[other] = states[other], states[one]
                passes[one], passes[other] = passes[other], passes[one]
            case 2:
                session.reset(one)
                alone.reset()
                states[one] = alone.read_states()
            case 3:
                session.write_states(states[one], row=other)
                states[other] = states[one]
            case _:
                rows = range(min(one, other), max(one, other) + 1)
                rejoined += len({*(passes[rows.start : rows.stop] % 2)}) > 1
                passes[rows.start : rows.stop] = passes[rows.start : rows.stop].max() + 1
                _run(session, alone, states, rows, int(random.integers(1, most + 1)), random, tolerance)
        for row, expected in enumerate(states):
            for name, value in session.read_states(row).items():
                np.testing.assert_allclose(
                    value, expected[name], rtol=tolerance, atol=tolerance, err_msg=f"row {row}, {name}"
                )
        if manifest.states:
            together = session.read_states()
            name = manifest.states[-1].input
            np.testing.assert_array_equal(
                together[name], np.concatenate([session.read_states(r)[name] for r in range(batch)])
            )
    return rejoined


def _run(session, alone, states, rows, positions, random, tolerance) -> None:
    lengths = random.integers(0, positions + 1, len(rows))
    tokens = random.integers(0, session.manifest.vocab_size, (len(rows), positions))
    outputs = session.feed(tokens, lengths, rows)
    for row, length, given, output in zip(rows, lengths, tokens, outputs, strict=True):
        if length:
            alone.write_states(states[row])
            expected = alone.feed(given[None, :length])[0]
            np.testing.assert_allclose(output, expected, rtol=tolerance, atol=tolerance)
            states[row] = alone.read_states()
