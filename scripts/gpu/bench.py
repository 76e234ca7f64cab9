"""How times are taken, and errors: what every measurement on the device uses.

N launches on N sets of buffers, together larger than four times the L2 cache, are captured into one CUDA graph. The
graph is replayed between two CUDA events; the median over the replays is divided by N. Operands of such a launch are
*cold*: they come from the memory. In a model the activations were written just before: *warm*, they are the same
buffers in all N launches, and only states and weights are cold.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from .launchers import LaunchError, Launchers, mlstm_args

MAX_SETS = 256
LEAST_LAUNCHES = 8  # in a graph, so that its own start does not count
STATES = {"mlstm": "Cnm", "slstm": "ycnm"}

Launch = Callable[[], object]


class Bench:
    """The launchers, and times on the current device."""

    @staticmethod
    @functools.cache
    def of(folder: str) -> Bench:
        """With what was built in this folder."""
        return Bench(Path(folder))

    def __init__(self, folder: Path):
        self.folder = folder
        self.launchers = Launchers(folder, lambda: torch.cuda.current_stream().cuda_stream)
        properties = torch.cuda.get_device_properties(0)
        self.l2_bytes, self.multiprocessors = properties.L2_cache_size, properties.multi_processor_count
        self.stream = torch.cuda.Stream()

    def sets(self, traffic: int) -> range:
        """As many sets of buffers as go past four times the L2 cache."""
        return range(min(MAX_SETS, max(1, -(-4 * self.l2_bytes // traffic))))

    def time(self, launches: Iterable[Launch], rounds: int = 30, least: int = LEAST_LAUNCHES) -> float:
        """Seconds for one of `launches`, all of which go to the current stream."""
        launches = list(launches)
        launches *= max(1, least // len(launches))
        torch.cuda.synchronize()  # the buffers were filled on another stream
        with torch.cuda.stream(self.stream):
            for launch in launches[:3]:  # compilation, module loading
                launch()
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            for launch in launches:
                launch()
        times = []
        with torch.cuda.stream(self.stream):
            for round_ in range(rounds + 5):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                graph.replay()
                end.record()
                end.synchronize()
                if round_ >= 5:
                    times.append(start.elapsed_time(end) * 1e-3 / len(launches))
        return statistics.median(times)

    def time_mlstm(self, shape: tuple[int, int, int], tokens: tuple[int, ...], sets: list[dict]) -> float:
        """Seconds of a launch of the mLSTM on these sets of tensors."""
        args = [mlstm_args(shape, tokens, tensors) for tensors in sets]
        return self.time(self.launchers.launch("xlstm_launch_mlstm", each) for each in args)

    def slstm_workspace(self, shape: tuple[int, int], batch: int) -> torch.Tensor:
        """What a launch of the sLSTM needs. `shape`: H, DH."""
        size = self.launchers.functions.xlstm_slstm_workspace_size(batch, *shape)
        return torch.empty(size, dtype=torch.uint8, device="cuda")

    def time_each(self, function: str, args: list, choices: Iterable[tuple[int, int]]) -> dict[str, float]:
        """Seconds of a launcher with each of these choices, by `64x32`. (0, 0), and what there is no kernel for with
        these arguments, is refused by the launcher, and left out."""
        times = {}
        for first, second in choices:
            launches = [self.launchers.launch(function, each, first, second) for each in args]
            try:
                times[f"{first}x{second}"] = self.time(launches)
            except LaunchError as error:
                if not error.refused:
                    raise
        return times


def mlstm_tensors(shape: tuple[int, int, int], tokens: tuple[int, ...], device: str = "cuda") -> dict:
    """bfloat16 activations, as a 7B model has them; forget gates open, as after training; float32 states.

    Args:
        shape: H, DK, DV.
        tokens: (B) for one position, or (B, S).
        device: where they are.
    """
    heads, dim_qk, dim_v = shape
    states = (tokens[0], heads)

    def new(*size: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(*size, device=device, dtype=dtype)

    tensors = {name: new(*tokens, heads, dim_qk) for name in "qk"}
    tensors |= {name: new(*tokens, heads, dim_v) for name in "vh"}
    tensors |= {"i": new(*tokens, heads), "f": new(*tokens, heads) + 3}
    for side in ("in", "out"):
        tensors[f"C_{side}"] = new(*states, dim_qk, dim_v, dtype=torch.float32)
        tensors[f"n_{side}"] = new(*states, dim_qk, dtype=torch.float32)
        tensors[f"m_{side}"] = new(*states, dtype=torch.float32)
    return tensors


def slstm_tensors(shape: tuple[int, int], tokens: tuple[int, ...], recurrent: str, device: str = "cuda") -> dict:
    """bfloat16 activations and float32 states; R of the type `recurrent`. `shape`: H, DH."""
    heads, dim = shape
    states = (tokens[0], heads, dim)
    options = {"device": device, "dtype": torch.bfloat16}
    tensors = {
        "x": torch.randn(*tokens, 4, heads, dim, **options),
        "R": torch.randn(heads, 4, dim, dim, device=device).mul_(dim**-0.5).to(getattr(torch, recurrent)),
        "b": torch.randn(4, heads, dim, device=device),
        "hidden": torch.empty(*tokens, heads, dim, **options),
    }
    for side in ("in", "out"):
        tensors |= {f"{name}_{side}": torch.rand(states, device=device) for name in "ycm"}
        tensors[f"n_{side}"] = torch.rand(states, device=device) + 0.5
    return tensors


def warm(tensors: dict, first: dict, cell: str) -> dict:
    """Activations of the first set, states (and R) of this one."""
    cold = {f"{name}_{side}" for name in STATES[cell] for side in ("in", "out")} | {"R"}
    return {name: tensor if name in cold else first[name] for name, tensor in tensors.items()}


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """|actual - expected| / |expected|, in the Euclidean norm."""
    difference = actual.double() - expected
    return float(torch.linalg.vector_norm(difference) / torch.linalg.vector_norm(expected))
