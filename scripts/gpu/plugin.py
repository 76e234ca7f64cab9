"""TensorRT's plugin: what its `enqueue` adds to the launcher. The harness plays TensorRT, and has it told the shapes
before every call, which an engine does when they change."""

from __future__ import annotations

import statistics
import time

import torch

from .bench import Bench, mlstm_tensors, slstm_tensors
from .launchers import PLUGIN_SIGNATURES, load, mlstm_args, slstm_args
from .shapes import MLSTM_SHAPES, SLSTM_SHAPES

CALLS = 500  # fewer than a stream's queue takes


def enqueue(folder: str, cell: str) -> dict:
    """Seconds on the device for one position of a model at batch 1, and of the host for a call, on a tiny shape so that
    the device never holds it up."""
    bench = Bench.of(folder)
    library = load(bench.folder / "lib" / "libxlstm_plugin_calls.so", PLUGIN_SIGNATURES)
    shapes = {"mlstm": (MLSTM_SHAPES["7B"], (1, 8, 8)), "slstm": (SLSTM_SHAPES["1.3B"], (1, 8))}[cell]
    result = {}
    for where, shape in zip(("device", "host"), shapes, strict=True):
        if cell == "mlstm":
            args = mlstm_args(shape, (1,), mlstm_tensors(shape, (1,)))
            launcher = bench.launchers.launch("xlstm_launch_mlstm", args)
            call = library.xlstm_plugin_of_mlstm(args)
        else:
            args = slstm_args(shape, (1,), slstm_tensors(shape, (1,), "bfloat16"))
            workspace = bench.slstm_workspace(shape, 1)
            launcher = bench.launchers.launch("xlstm_launch_slstm", args, workspace.data_ptr())
            call = library.xlstm_plugin_of_slstm(args, workspace.data_ptr())

        def plugin(call: int = call) -> None:
            if status := library.xlstm_call_plugin(call, torch.cuda.current_stream().cuda_stream):
                raise RuntimeError(f"the plugin returned cudaError_t {status}")

        timed = bench.time if where == "device" else host_time
        result |= {f"{where}_launcher": timed([launcher]), f"{where}_plugin": timed([plugin])}
    return result


def host_time(launches: list) -> float:
    """Seconds that the host takes to queue a launch."""
    (launch,) = launches
    times = []
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(CALLS):
            launch()
        times.append((time.perf_counter() - start) / CALLS)
    return statistics.median(times)
