#!/usr/bin/env python3
"""Check the CUDA kernels on this machine's GPU, time them, and write docs/gpu-results.md.

    scripts/gpu_check.py [--quick] [--no-tests] [--tiles] [--output FILE]

Needs a GPU, nvcc, CMake, PyTorch with CUDA, and hypothesis and pytest for the tests; with the package `mlstm_kernels`
its Triton step kernel is timed beside ours, and with TensorRT's headers the plugin is tested too.

Method: N launches on N different sets of buffers, together larger than four times the L2 cache, are captured into one
CUDA graph; the graph is replayed between two CUDA events and the median over the replays is divided by N. Our kernels,
Triton's and the copies that say what the memory can do are all timed that way, in the same run.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "plugins")]

MLSTM_SHAPES = {"7B": (8, 256, 512), "paper DH 384": (4, 384, 384), "paper DH 1024": (4, 1024, 1024)}  # H, DK, DV
SLSTM_SHAPES = {"paper DH 192": (4, 192), "paper DH 384": (4, 384), "paper DH 512": (4, 512)}  # H, DH
BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256]
QUICK_BATCHES = [1, 8, 64]
TILES = [(4, 4), (4, 8), (4, 32), (1, 32)]  # vector, lanes
LARGE_TRAFFIC = 64e6  # bytes from which the kernel must reach the roofline's fraction below
REQUIRED_FRACTION, REQUIRED_RATIO = 0.85, 1.2
MAX_SETS = 256


class MlstmArgs(ctypes.Structure):
    """xlstm::MlstmArgs, member by member."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "sequence", "heads", "dim_qk", "dim_v")),
        ("type", ctypes.c_int32),
        *((n, ctypes.c_void_p) for n in ("q", "k", "v", "i", "f", "C_in", "n_in", "m_in", "lengths")),
        *((n, ctypes.c_void_p) for n in ("h", "C_out", "n_out", "m_out")),
        *((n, ctypes.c_float) for n in ("q_scale", "k_scale", "gate_soft_cap", "eps")),
    ]  # fmt: skip


class SlstmArgs(ctypes.Structure):
    """xlstm::SlstmArgs, member by member."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "sequence", "heads", "dim")),
        *((name, ctypes.c_int32) for name in ("type", "recurrent_type")),
        *((n, ctypes.c_void_p) for n in ("x", "R", "b", "y_in", "c_in", "n_in", "m_in", "lengths")),
        *((n, ctypes.c_void_p) for n in ("hidden", "y_out", "c_out", "n_out", "m_out")),
        ("forget_clamp", ctypes.c_float),
    ]  # fmt: skip


@dataclass(frozen=True)
class MlstmTiming:
    """One row of the mLSTM table; times in seconds, traffic in bytes of state read and written."""

    shape: str
    batch: int
    traffic: int
    ours: float
    in_place: float
    copy: float
    triton: float | None

    @property
    def bandwidth(self) -> float:
        return self.traffic / self.ours


@dataclass(frozen=True)
class SlstmTiming:
    """One row of the sLSTM table; traffic: R once, the states once each way, the input and the output."""

    shape: str
    batch: int
    recurrent: str
    traffic: int
    ours: float


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

    def launch(self, function: str, args: ctypes.Structure, *extra) -> Callable[[], None]:
        call = getattr(self.library, function)

        def run():
            stream = ctypes.c_void_p(self.torch.cuda.current_stream().cuda_stream)
            status = call(ctypes.byref(args), *extra, stream)
            if status:
                raise RuntimeError(f"{function} returned cudaError_t {status}")

        return run

    def mlstm_buffers(self, shape: tuple[int, int, int], batch: int) -> dict:
        """bfloat16 activations, as a 7B model has them; states in the range of a trained model."""
        torch, (heads, dim_qk, dim_v) = self.torch, shape
        new = lambda *size, dtype=torch.float32: torch.randn(*size, device="cuda", dtype=dtype)  # noqa: E731
        half, states = torch.bfloat16, (batch, heads)
        buffers = {name: new(*states, dim_qk, dtype=half) for name in "qk"}
        buffers |= {"v": new(*states, dim_v, dtype=half), "h": new(*states, dim_v, dtype=half)}
        buffers |= {name: new(*states, dtype=half) for name in "if"}
        for side in ("in", "out"):
            buffers |= {f"C_{side}": new(*states, dim_qk, dim_v), f"n_{side}": new(*states, dim_qk)}
            buffers[f"m_{side}"] = new(*states)
        return buffers

    def mlstm_args(self, shape: tuple[int, int, int], batch: int, buffers: dict, in_place: bool = False) -> MlstmArgs:
        args = MlstmArgs(batch, 1, *shape, 2)
        for name, tensor in buffers.items():
            source = buffers[name.replace("_out", "_in")] if in_place else tensor
            setattr(args, name, source.data_ptr())
        args.q_scale, args.k_scale, args.gate_soft_cap, args.eps = shape[1] ** -0.5, 1.0, 15.0, 1e-6
        return args

    def mlstm(self, name: str, batch: int) -> MlstmTiming:
        shape = MLSTM_SHAPES[name]
        heads, dim_qk, dim_v = shape
        traffic = 2 * 4 * batch * heads * dim_qk * dim_v
        sets = [self.mlstm_buffers(shape, batch) for _ in range(self.sets(traffic))]
        ours, in_place = (
            self.time([
                self.launch("xlstm_launch_mlstm", self.mlstm_args(shape, batch, buffers, place)) for buffers in sets
            ])
            for place in (False, True)
        )  # fmt: skip
        return MlstmTiming(name, batch, traffic, ours, in_place, self.copy(traffic), self.triton(sets))

    def mlstm_tiles(self, name: str, batch: int) -> dict[tuple[int, int], float]:
        """Seconds with every tile there is, for tuning."""
        shape = MLSTM_SHAPES[name]
        traffic = 8 * batch * shape[0] * shape[1] * shape[2]
        sets = [self.mlstm_buffers(shape, batch) for _ in range(self.sets(traffic))]
        args = [self.mlstm_args(shape, batch, buffers) for buffers in sets]
        return {tile: self.time([self.launch("xlstm_launch_mlstm_tiled", a, *tile) for a in args]) for tile in TILES}

    def triton(self, sets: list[dict]) -> float | None:
        """The step kernel that mlstm_kernels registers as "triton", into preallocated states; None where it is not."""
        try:
            from mlstm_kernels.torch.recurrent.triton_step import mlstm_recurrent_step__triton_fw as step
        except ImportError:
            return None

        def launch(b: dict) -> Callable[[], object]:
            scalars = {key: b[source].unsqueeze(-1) for key, source in (("scaI", "i"), ("scaF", "f"))}
            return lambda: step(
                b["C_in"], b["n_in"], b["m_in"].unsqueeze(-1), b["q"], b["k"], b["v"], **scalars,
                matC_new=b["C_out"], vecN_new=b["n_out"], scaM_new=b["m_out"].unsqueeze(-1),
            )  # fmt: skip

        return self.time([launch(buffers) for buffers in sets])

    def slstm(self, name: str, batch: int, recurrent: str) -> SlstmTiming:
        torch, (heads, dim) = self.torch, SLSTM_SHAPES[name]
        weight = getattr(torch, recurrent)
        elements = batch * heads * dim
        weight_bytes = heads * 4 * dim * dim * weight.itemsize
        traffic = weight_bytes + elements * (8 * 4 + 4 * 2 + 2)
        launches, keep = [], []
        for _ in range(self.sets(traffic)):
            new = lambda *size, dtype=torch.float32: torch.rand(*size, device="cuda", dtype=dtype)  # noqa: E731
            b = {"x": new(batch, 4, heads, dim, dtype=torch.bfloat16), "R": new(heads, 4, dim, dim).to(weight) / dim}
            b |= {"b": new(4, heads, dim), "hidden": new(batch, heads, dim, dtype=torch.bfloat16)}
            b |= {f"{state}_{side}": new(batch, heads, dim) for state in "ycnm" for side in ("in", "out")}
            args = SlstmArgs(batch, 1, heads, dim, 2, 0 if recurrent == "float32" else 2)
            for key, tensor in b.items():
                setattr(args, key, tensor.data_ptr())
            keep.append(b)
            launches.append(self.launch("xlstm_launch_slstm", args, ctypes.c_void_p(None)))
        return SlstmTiming(name, batch, recurrent, traffic, self.time(launches))


def report(bench: Bench, mlstm: list[MlstmTiming], slstm: list[SlstmTiming], peak: float, tests: str) -> str:
    """The Markdown page. `peak`: the largest copy bandwidth seen, bytes a second."""
    torch = bench.torch
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
    )
    lines = [
        "# The kernels on a GPU", "",
        "Written by `scripts/gpu_check.py`, which also says how the times are taken.", "",
        f"- {torch.cuda.get_device_name()}, driver {driver.stdout.strip()}, PyTorch {torch.__version__}, "
        f"{datetime.date.today()}",
        f"- copy bandwidth, bytes read and written: {peak / 1e12:.2f} TB/s, the largest over all sizes of the tables",
        f"- tests on the GPU: {tests}", "",
        "## mLSTM step", "",
        "bfloat16 activations, float32 states. Traffic: C read once and written once. Roofline: the time at the copy "
        "bandwidth above. Copy: a copy of as many bytes. Triton: the step kernel of `mlstm_kernels`.", "",
        "| shape | batch | traffic MB | time µs | TB/s | of roofline | of a copy | in place µs | Triton µs | ratio |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]  # fmt: skip
    for t in mlstm:
        other = f"{t.triton * 1e6:.1f} | {t.triton / t.ours:.2f}" if t.triton else "not installed | "
        lines.append(
            f"| {t.shape} | {t.batch} | {t.traffic / 1e6:.1f} | {t.ours * 1e6:.1f} | {t.bandwidth / 1e12:.2f} | "
            f"{t.bandwidth / peak:.1%} | {t.copy / t.ours:.1%} | {t.in_place * 1e6:.1f} | {other} |"
        )
    lines += [
        "", "## sLSTM step", "",
        "bfloat16 activations, float32 states. Traffic: R once, the states once each way, input and output.", "",
        "| shape | batch | R | traffic MB | time µs | TB/s | of roofline |",
        "| --- | --: | --- | --: | --: | --: | --: |",
    ]  # fmt: skip
    for t in slstm:
        bandwidth = t.traffic / t.ours
        lines.append(
            f"| {t.shape} | {t.batch} | {t.recurrent} | {t.traffic / 1e6:.1f} | {t.ours * 1e6:.1f} | "
            f"{bandwidth / 1e12:.2f} | {bandwidth / peak:.1%} |"
        )
    return "\n".join([*lines, "", "## Verdict", "", *verdict(mlstm, peak), ""])


def verdict(mlstm: list[MlstmTiming], peak: float) -> list[str]:
    """What the mLSTM must reach, each line with what it did reach."""
    lines = []
    large = [t for t in mlstm if t.traffic >= LARGE_TRAFFIC]
    if large:
        worst = min(large, key=lambda t: t.bandwidth)
        fraction = worst.bandwidth / peak
        lines.append(
            f"- state traffic of {LARGE_TRAFFIC / 1e6:.0f} MB and more: at least {fraction:.1%} of the roofline "
            f"({worst.shape}, batch {worst.batch}); required {REQUIRED_FRACTION:.0%}: "
            f"{'reached' if fraction >= REQUIRED_FRACTION else '**missed**'}"
        )
    compared = [t for t in mlstm if t.triton]
    if compared:
        worst = min(compared, key=lambda t: t.triton / t.ours)
        ratio = worst.triton / worst.ours
        lines.append(
            f"- against Triton: at least {ratio:.2f}x ({worst.shape}, batch {worst.batch}); "
            f"required {REQUIRED_RATIO}x: {'reached' if ratio >= REQUIRED_RATIO else '**missed**'}"
        )
    return lines or ["- nothing to judge"]


def run_tests() -> str:
    """The closing line of pytest over tests/gpu; its output goes to the terminal."""
    command = [sys.executable, "-m", "pytest", "-q", "-rs", str(ROOT / "tests" / "gpu")]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout[-6000:], flush=True)
    closing = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "no output"
    return closing if done.returncode == 0 else f"**failed**: {closing}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"batches {QUICK_BATCHES} only")
    parser.add_argument("--no-tests", action="store_true", help="timings only")
    parser.add_argument("--tiles", action="store_true", help="also print the time of every tile of the mLSTM kernel")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "gpu-results.md", help="the page to write")
    options = parser.parse_args()

    import gpu_build

    if reason := gpu_build.why_not():
        sys.exit(f"error: {reason}")
    folder = gpu_build.build_for_this_gpu()
    tests = "not run" if options.no_tests else run_tests()

    bench = Bench(folder / "lib" / "libxlstm_launchers.so")
    batches = QUICK_BATCHES if options.quick else BATCHES
    mlstm, slstm = [], []
    for name in MLSTM_SHAPES:
        for batch in batches:
            mlstm.append(bench.mlstm(name, batch))
            print(mlstm[-1], flush=True)
            if options.tiles:
                print("  tiles µs", {tile: round(t * 1e6, 2) for tile, t in bench.mlstm_tiles(name, batch).items()})
            bench.torch.cuda.empty_cache()
    for name in SLSTM_SHAPES:
        for batch in batches:
            for recurrent in ("float32", "bfloat16"):
                slstm.append(bench.slstm(name, batch, recurrent))
                print(slstm[-1], flush=True)
    peak = max([t.traffic / t.copy for t in mlstm] + [2**31 / bench.copy(2**31)])
    page = report(bench, mlstm, slstm, peak, tests)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(page)
    print(page)
    print(options.output)
    if "**failed**" in tests:
        sys.exit(1)


if __name__ == "__main__":
    main()
