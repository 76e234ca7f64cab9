"""Kernels of others on the same tensors. They may not be installed, not compile, or abort: gpu.worker survives that."""

from __future__ import annotations

import statistics

import torch

from .bench import Bench, mlstm_tensors
from .reference import mlstm_errors
from .shapes import (
    MLSTM_SHAPES,
    PREFILL_SHAPE,
    SLSTM_SEQUENCE,
    SLSTM_SHAPES,
    mlstm_prefill_traffic,
    mlstm_step_traffic,
)

CHUNK = 128  # positions, the default of mlstm_kernels
# Of its parallel kernel. With its default of 4, Triton 3.6 aborts the process: an assertion in LLVM's SLPVectorizer.
WARPS = 8


def triton_step(folder: str, shape: str, batch: int) -> dict:
    """The step kernel that mlstm_kernels registers as "triton", into preallocated states. It caps no gates."""
    from mlstm_kernels.torch.recurrent.triton_step import mlstm_recurrent_step__triton_fw as step

    bench = Bench.of(folder)
    sets = [mlstm_tensors(MLSTM_SHAPES[shape], (batch,)) for _ in bench.sets(mlstm_step_traffic(shape, batch))]

    def run(t: dict) -> torch.Tensor:
        gates = {"scaI": t["i"].unsqueeze(-1), "scaF": t["f"].unsqueeze(-1)}
        states = {"matC_new": t["C_out"], "vecN_new": t["n_out"], "scaM_new": t["m_out"].unsqueeze(-1)}
        return step(t["C_in"], t["n_in"], t["m_in"].unsqueeze(-1), t["q"], t["k"], t["v"], **gates, **states)[0]

    cold = bench.time(lambda tensors=tensors: run(tensors) for tensors in sets)
    result = sets[0] | {"h": run(sets[0])}
    return {"cold": cold, **mlstm_errors(result, one_position=True, gate_soft_cap=0.0)}


def triton_prefill(folder: str, batch: int, sequence: int) -> dict:
    """The chunkwise forward pass of mlstm_kernels, on tensors as it wants them."""
    from mlstm_kernels.torch.chunkwise.triton_xl_chunk.fw import mlstm_chunkwise_fw as forward

    bench = Bench.of(folder)
    sets = [mlstm_tensors(PREFILL_SHAPE, (batch, sequence)) for _ in bench.sets(mlstm_prefill_traffic(batch, sequence))]
    by_head = [{name: tensors[name].transpose(1, 2).contiguous() for name in "qkvif"} for tensors in sets]

    def run(tensors: dict, inputs: dict) -> tuple:
        # It takes the logarithm of the forget gate's sigmoid itself.
        return forward(
            **{f"mat{name.upper()}": inputs[name] for name in "qkv"},
            **{f"vec{name.upper()}": inputs[name] for name in "if"},
            matC_initial=tensors["C_in"],
            vecN_initial=tensors["n_in"],
            scaM_initial=tensors["m_in"].unsqueeze(-1),
            return_last_states=True,
            chunk_size=CHUNK,
            eps=1e-6,
            output_dtype=torch.bfloat16,
            num_warps_intra=WARPS,
        )

    cold = bench.time(lambda each=each: run(*each) for each in zip(sets, by_head, strict=True))
    h, _, _, (C, n, m), _ = run(sets[0], by_head[0])
    result = sets[0] | {"h": h.transpose(1, 2), "C_out": C, "n_out": n, "m_out": m.squeeze(-1)}
    return {"cold": cold, **mlstm_errors(result, one_position=False, gate_soft_cap=0.0)}


def upstream_slstm(folder: str, shape: str, batch: int) -> dict:
    """The CUDA kernel of the xlstm package, compiled when first used, without its own permutations of the input. It has
    a stream of its own, so that its launches and products of cuBLAS are timed without a graph."""
    from xlstm.blocks.slstm.cell import sLSTMCell, sLSTMCellConfig

    heads, dim = SLSTM_SHAPES[shape]
    cell = sLSTMCell(sLSTMCellConfig(hidden_size=heads * dim, num_heads=heads, batch_size=batch)).to("cuda")
    x = torch.rand(SLSTM_SEQUENCE, batch, 4 * heads * dim, device="cuda", dtype=torch.bfloat16)
    state = torch.zeros(4, batch, heads * dim, device="cuda", dtype=torch.bfloat16)
    times = []
    with torch.no_grad():
        for _ in range(13):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            cell._impl(False, x, state)
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e-3)
    return {"cold": statistics.median(times[3:])}
