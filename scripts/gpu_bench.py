"""Timings of the kernels on the current CUDA device: what gpu_check.py and its tables are made with."""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Callable
from pathlib import Path

SLSTM_SHAPES = {"paper DH 192": (4, 192), "paper DH 384": (4, 384), "paper DH 512": (4, 512)}  # H, DH
MAX_SETS = 256


class MlstmArgs(ctypes.Structure):
    """xlstm::MlstmArgs, member by member."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "sequence", "heads", "dim_qk", "dim_v")),
        *((name, ctypes.c_int32) for name in ("type", "memory_type")),
        *((n, ctypes.c_void_p) for n in ("q", "k", "v", "i", "f", "C_in", "n_in", "m_in", "lengths")),
        *((n, ctypes.c_void_p) for n in ("h", "C_out", "n_out", "m_out")),
        *((n, ctypes.c_float) for n in ("q_scale", "k_scale", "gate_soft_cap", "eps")),
    ]


class SlstmArgs(ctypes.Structure):
    """xlstm::SlstmArgs, member by member."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "sequence", "heads", "dim")),
        *((name, ctypes.c_int32) for name in ("type", "recurrent_type")),
        *((n, ctypes.c_void_p) for n in ("x", "R", "b", "y_in", "c_in", "n_in", "m_in", "lengths")),
        *((n, ctypes.c_void_p) for n in ("hidden", "y_out", "c_out", "n_out", "m_out")),
        ("forget_clamp", ctypes.c_float),
    ]


class Bench:
    """Timings on the current CUDA device."""

    def __init__(self, launchers: Path):
        import torch

        self.torch = torch
        self.library = ctypes.CDLL(str(launchers))
        sizes = (self.library.xlstm_size_of_mlstm_args(), self.library.xlstm_size_of_slstm_args())
        if sizes != (ctypes.sizeof(MlstmArgs), ctypes.sizeof(SlstmArgs)):
            raise RuntimeError("plugins/cells/cells.h and the structures of this script differ")
        self.l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
        self.stream = torch.cuda.Stream()

    def sets(self, traffic: int) -> int:
        """How many sets of buffers go past four times the L2 cache."""
        return min(MAX_SETS, max(1, -(-4 * self.l2_bytes // traffic)))

    def time(self, launches: list[Callable[[], object]]) -> float:
        """Seconds for one of `launches`, all of which go to the current stream."""
        torch = self.torch
        torch.cuda.synchronize()  # the buffers were filled on another stream
        with torch.cuda.stream(self.stream):
            for launch in launches[:3]:  # compilation, module loading
                launch()
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            for _ in range(max(1, 8 // len(launches))):
                for launch in launches:
                    launch()
        count = max(1, 8 // len(launches)) * len(launches)
        times = []
        with torch.cuda.stream(self.stream):
            for _ in range(5):
                graph.replay()
            for _ in range(30):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                graph.replay()
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end) * 1e-3 / count)
        return statistics.median(times)

    def copy(self, traffic: int) -> float:
        """Seconds to copy half of `traffic` bytes: as much read as written."""
        torch, sets = self.torch, self.sets(traffic)
        pairs = [[torch.randn(traffic // 8, device="cuda") for _ in range(2)] for _ in range(sets)]
        return self.time([lambda a=a, b=b: b.copy_(a) for a, b in pairs])

    def mlstm_buffers(self, shape: tuple[int, int, int], tokens: tuple[int, ...]) -> dict:
        """bfloat16 activations, as a 7B model has them, and gates and states in the range of a trained model.

        `shape`: H, DK, DV. `tokens`: (batch,) of one position, or (batch, positions).
        """
        torch, (heads, dim_qk, dim_v) = self.torch, shape
        new = lambda *size, dtype=torch.float32: torch.randn(*size, device="cuda", dtype=dtype)  # noqa: E731
        half, states = torch.bfloat16, (tokens[0], heads)
        buffers = {name: new(*tokens, heads, dim_qk, dtype=half) for name in "qk"}
        buffers |= {name: new(*tokens, heads, dim_v, dtype=half) for name in "vh"}
        buffers |= {name: new(*tokens, heads, dtype=half) for name in "if"}
        for side in ("in", "out"):
            buffers |= {f"C_{side}": new(*states, dim_qk, dim_v), f"n_{side}": new(*states, dim_qk)}
            buffers[f"m_{side}"] = new(*states)
        return buffers

    def mlstm_args(
        self, shape: tuple[int, int, int], tokens: tuple[int, ...], buffers: dict, in_place: bool = False
    ) -> MlstmArgs:
        batch, sequence = (*tokens, 1)[:2]
        args = MlstmArgs(batch, sequence, *shape, 2)
        for name, tensor in buffers.items():
            source = buffers[name.replace("_out", "_in")] if in_place else tensor
            setattr(args, name, source.data_ptr())
        args.q_scale, args.k_scale, args.gate_soft_cap, args.eps = shape[1] ** -0.5, 1.0, 15.0, 1e-6
        return args

    def launch(self, function: str, args: ctypes.Structure, *extra) -> Callable[[], None]:
        call = getattr(self.library, function)

        def run():
            stream = ctypes.c_void_p(self.torch.cuda.current_stream().cuda_stream)
            status = call(ctypes.byref(args), *extra, stream)
            if status:
                raise RuntimeError(f"{function} returned cudaError_t {status}")

        return run
