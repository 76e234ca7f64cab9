"""What is timed, the most important first: the time may be used up before the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .shapes import LARGE_COPY, MLSTM_SHAPES, MODELS, SLSTM_SHAPES, mlstm_step_traffic

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
QUICK_BATCHES = (1, 8, 32)
SEQUENCES = (256, 512, 1024, 2048, 4096, 8192)
QUICK_SEQUENCES = (512, 4096)
PREFILL_BATCHES = (1, 8)
FUNCTIONS = {
    "copy": "gpu.step:copy",
    "product_rate": "gpu.prefill:product_rate",
    "mlstm_step": "gpu.step:mlstm",
    "mlstm_tiles": "gpu.step:mlstm_tiles",
    "triton_step": "gpu.foreign:triton_step",
    "slstm_step": "gpu.step:slstm",
    "mlstm_prefill": "gpu.prefill:mlstm",
    "mlstm_chunks": "gpu.prefill:mlstm_chunks",
    "triton_prefill": "gpu.foreign:triton_prefill",
    "slstm_prefill": "gpu.prefill:slstm",
    "upstream_slstm": "gpu.foreign:upstream_slstm",
    "sampler": "gpu.sampler:sample",
    "plugin": "gpu.plugin:enqueue",
    "whole_model": "gpu.whole_model:decode",
}


@dataclass(frozen=True)
class Item:
    """One measurement: `FUNCTIONS[what]` with the arguments `of`."""

    what: str
    of: dict[str, Any]
    seconds: float = 60
    """It may take."""
    alone: bool = False
    """In a process of its own."""

    @property
    def function(self) -> str:
        return FUNCTIONS[self.what]


def timings(quick: bool, tiles: bool) -> list[Item]:
    """Without repetition. `tiles`: with every tile and chunk of the mLSTM kernels, for tuning."""
    items = list(_quick())
    if tiles:
        items += _tiles()
    if not quick:
        items += _rest()
    return [item for index, item in enumerate(items) if item not in items[:index]]


def _quick() -> Iterator[Item]:
    yield Item("copy", {"traffic": LARGE_COPY})
    yield Item("product_rate", {})
    for shape in MLSTM_SHAPES:
        for batch in QUICK_BATCHES:
            yield from _step(shape, batch)
    yield from _prefill(QUICK_SEQUENCES)
    for shape in SLSTM_SHAPES:
        yield Item("slstm_prefill", {"shape": shape, "batch": 1, "recurrent": "bfloat16"})
        for batch in QUICK_BATCHES:
            yield Item("slstm_step", {"shape": shape, "batch": batch, "recurrent": "bfloat16"})
    for how in ("greedy", "top-p", "top-k and top-p"):
        for batch in PREFILL_BATCHES:
            yield Item("sampler", {"how": how, "batch": batch})
    for cell in ("mlstm", "slstm"):
        yield Item("plugin", {"cell": cell})
    yield _whole_model(MODELS[0], 1, "eager")
    for model in MODELS:
        yield _whole_model(model, 1, "compiled")


def _tiles() -> Iterator[Item]:
    for shape in MLSTM_SHAPES:
        for batch in QUICK_BATCHES:
            yield Item("mlstm_tiles", {"shape": shape, "batch": batch})
    for batch in PREFILL_BATCHES:
        for sequence in QUICK_SEQUENCES:
            yield Item("mlstm_chunks", {"batch": batch, "sequence": sequence})


def _rest() -> Iterator[Item]:
    yield from _prefill(SEQUENCES)
    for batch in BATCHES:
        for shape in MLSTM_SHAPES:
            yield from _step(shape, batch)
        for shape in SLSTM_SHAPES:
            for recurrent in ("bfloat16", "float32"):
                yield Item("slstm_step", {"shape": shape, "batch": batch, "recurrent": recurrent})
    for shape in SLSTM_SHAPES:
        for batch in PREFILL_BATCHES:
            for recurrent in ("bfloat16", "float32"):
                yield Item("slstm_prefill", {"shape": shape, "batch": batch, "recurrent": recurrent})
    for model in MODELS:
        for batch in PREFILL_BATCHES:
            for glue in ("eager", "compiled"):
                yield _whole_model(model, batch, glue)
    for shape in SLSTM_SHAPES:
        yield Item("upstream_slstm", {"shape": shape, "batch": 1}, seconds=150)  # a compiler run


def _step(shape: str, batch: int) -> Iterator[Item]:
    yield Item("copy", {"traffic": mlstm_step_traffic(shape, batch)})
    for what in ("mlstm_step", "triton_step"):
        yield Item(what, {"shape": shape, "batch": batch})


def _prefill(sequences: tuple[int, ...]) -> Iterator[Item]:
    for batch in PREFILL_BATCHES:
        for sequence in sequences:
            for what in ("mlstm_prefill", "triton_prefill"):
                yield Item(what, {"batch": batch, "sequence": sequence}, seconds=90)


def _whole_model(model: str, batch: int, glue: str) -> Item:
    return Item("whole_model", {"model": model, "batch": batch, "glue": glue}, seconds=150, alone=True)
