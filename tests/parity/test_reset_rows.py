"""Upstream's trap: its PyTorch sLSTM asks the whole batch at once whether it is at its first step.

`torch.all(n == 0)` (`xlstm/blocks/slstm/src/vanilla/slstm.py`) is true of a batch of fresh rows only. A row that was
reset beside warm rows takes the other branch: m = max(i, log f) where alone it gets m = i. Outputs are the same in
exact arithmetic, states are not, and what follows is rounded differently. Upstream's CUDA kernel asks each element, and
so do ours.
"""

from __future__ import annotations

import numpy as np
import torch
from support.upstream_models import VOCAB, canonical_states, upstream_step

from xlstm_export.bundle import Bundle
from xlstm_export.runtime import open_session

ROWS, WARM = 3, 6


@torch.no_grad()
def test_row_reset_beside_warm_rows_gets_what_it_gets_alone_and_upstream_gives_it_something_else(export_variant):
    model, _, path = export_variant("a-all-slstm")
    tokens = np.random.default_rng(0).integers(0, VOCAB, (WARM + 1, ROWS, 1))
    state = None
    for step in tokens[:WARM]:
        _, state = upstream_step(model, torch.from_numpy(step), state)
    for block in state.values():
        block["slstm_state"][:, 1] = 0
        for window in block["conv_state"] or ():
            window[1] = 0
    beside, state = upstream_step(model, torch.from_numpy(tokens[WARM]), state)
    alone, own = upstream_step(model, torch.from_numpy(tokens[WARM, 1:2]))
    theirs, expected = canonical_states(model, state), canonical_states(model, own)
    stabilisers = [name for name in expected if name.endswith(".m")]
    assert max((theirs[name][1] - expected[name][0]).abs().max() for name in stabilisers) > 1e-2
    torch.testing.assert_close(beside[1], alone[0], atol=1e-4, rtol=0)  # but the outputs are the same

    with open_session(Bundle.open(path), batch=ROWS) as session:
        for step in tokens[:WARM]:
            session.step(step)
        session.reset(1)
        outputs, states = session.step(tokens[WARM]), session.read_states()
    np.testing.assert_allclose(outputs[1], alone[0], atol=1e-5 * float(np.ptp(alone)))
    for name, value in expected.items():
        np.testing.assert_allclose(states[name][1], value[0], atol=1e-5, rtol=1e-5, err_msg=name)
