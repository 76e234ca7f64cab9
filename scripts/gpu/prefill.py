"""The kernels over whole sequences."""

from __future__ import annotations

from functools import partial

import torch
from support import cases

from .bench import Bench, mlstm_tensors, slstm_tensors
from .launchers import in_place, mlstm_args, slstm_args
from .reference import mlstm_errors, slstm_errors
from .shapes import PREFILL_SHAPE, SLSTM_SEQUENCE, SLSTM_SHAPES, mlstm_prefill_traffic

MATRIX = 8192


def product_rate(folder: str) -> dict:
    """Operations a second of a large product of bfloat16 matrices, by cuBLAS."""
    a, b, c = (torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    seconds = Bench.of(folder).time([lambda: torch.matmul(a, b, out=c)])
    return {"operations_per_second": 2 * MATRIX**3 / seconds}


def mlstm(folder: str, batch: int, sequence: int) -> dict:
    bench, tokens = Bench.of(folder), (batch, sequence)
    sets = [mlstm_tensors(PREFILL_SHAPE, tokens) for _ in bench.sets(mlstm_prefill_traffic(batch, sequence))]
    seconds = partial(bench.time_mlstm, PREFILL_SHAPE, tokens)
    cold = seconds(sets)
    errors = mlstm_errors(sets[0], one_position=False)
    return {"cold": cold, "Cnm_in_place": seconds([in_place(each, "Cnm") for each in sets]), **errors}


def mlstm_chunks(folder: str, batch: int, sequence: int) -> dict:
    """Seconds with every shape of the chunkwise kernel: for tuning."""
    tokens = (batch, sequence)
    args = mlstm_args(PREFILL_SHAPE, tokens, mlstm_tensors(PREFILL_SHAPE, tokens))
    return Bench.of(folder).time_each("xlstm_launch_mlstm_chunkwise", [args], cases.CHUNKS["bfloat16"])


def slstm(folder: str, shape: str, batch: int, recurrent: str) -> dict:
    """One launch for all positions; and `stepwise`, a launch for each."""
    bench, sizes = Bench.of(folder), SLSTM_SHAPES[shape]
    tensors = slstm_tensors(sizes, (batch, SLSTM_SEQUENCE), recurrent)
    workspace = bench.slstm_workspace(sizes, batch)

    def launch(sequence: int):
        args = slstm_args(sizes, (batch, sequence), tensors)
        return bench.launchers.launch("xlstm_launch_slstm", args, workspace.data_ptr())

    cold = bench.time([launch(SLSTM_SEQUENCE)], least=1)
    errors = slstm_errors(tensors, one_position=False)
    stepwise = bench.time([launch(1)] * SLSTM_SEQUENCE) * SLSTM_SEQUENCE
    return {"cold": cold, "stepwise": stepwise, **errors}
