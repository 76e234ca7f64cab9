"""The kernels of one position, and copies beside them."""

from __future__ import annotations

from functools import partial

import torch
from support import cases

from .bench import Bench, mlstm_tensors, slstm_tensors, warm
from .launchers import in_place, mlstm_args, slstm_args
from .reference import mlstm_errors, slstm_errors
from .shapes import MLSTM_SHAPES, SLSTM_SHAPES, mlstm_step_traffic, slstm_step_traffic

BLOCKS = (2, 4, 8, 16)  # of the copying kernel on a multiprocessor: the best of these counts


def copy(folder: str, traffic: int) -> dict:
    """Seconds to copy half of `traffic` bytes, as much read as written: by our kernel, and by cudaMemcpy."""
    bench = Bench.of(folder)
    half = traffic // 32 * 16
    new = lambda: torch.randint(256, (half,), dtype=torch.uint8, device="cuda")  # noqa: E731
    pairs = [(new(), new()) for _ in bench.sets(traffic)]
    kernel = {
        blocks: bench.time(
            bench.launchers.launch(
                "xlstm_launch_copy", to.data_ptr(), source.data_ptr(), half, blocks * bench.multiprocessors
            )
            for to, source in pairs
        )
        for blocks in BLOCKS
    }
    if not all(torch.equal(to, source) for to, source in pairs):
        raise RuntimeError("the copy is not what was copied")
    best = min(kernel, key=kernel.__getitem__)
    memcpy = bench.time(lambda to=to, source=source: to.copy_(source) for to, source in pairs)
    return {"kernel": kernel[best], "blocks": best, "memcpy": memcpy}


def mlstm(folder: str, shape: str, batch: int) -> dict:
    bench, sizes, tokens = Bench.of(folder), MLSTM_SHAPES[shape], (batch,)
    traffic = mlstm_step_traffic(shape, batch)
    sets = [mlstm_tensors(sizes, tokens) for _ in bench.sets(traffic)]
    seconds = partial(bench.time_mlstm, sizes, tokens)
    cold = seconds(sets)
    errors = mlstm_errors(sets[0], one_position=True)
    in_cache = seconds([warm(each, sets[0], "mlstm") for each in sets])
    replaced = {f"{states}_in_place": seconds([in_place(each, states) for each in sets]) for states in ("C", "Cnm")}
    return {"cold": cold, "warm": in_cache, **replaced, **errors}


def mlstm_tiles(folder: str, shape: str, batch: int) -> dict:
    """Seconds with every tile there is, cold: for tuning."""
    bench, sizes = Bench.of(folder), MLSTM_SHAPES[shape]
    sets = [mlstm_tensors(sizes, (batch,)) for _ in bench.sets(mlstm_step_traffic(shape, batch))]
    args = [mlstm_args(sizes, (batch,), tensors) for tensors in sets]
    return bench.time_each("xlstm_launch_mlstm_tiled", args, cases.TILES)


def slstm(folder: str, shape: str, batch: int, recurrent: str) -> dict:
    bench, sizes, tokens = Bench.of(folder), SLSTM_SHAPES[shape], (batch,)
    traffic = slstm_step_traffic(shape, batch, recurrent)
    sets = [slstm_tensors(sizes, tokens, recurrent) for _ in bench.sets(traffic)]

    def seconds(tensors: list[dict]) -> float:
        args = [slstm_args(sizes, tokens, each) for each in tensors]
        return bench.time(bench.launchers.launch("xlstm_launch_slstm", each, None) for each in args)

    cold = seconds(sets)
    errors = slstm_errors(sets[0], one_position=True)
    return {
        "traffic": traffic,
        "cold": cold,
        "warm": seconds([warm(each, sets[0], "slstm") for each in sets]),
        **errors,
    }
