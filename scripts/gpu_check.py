#!/usr/bin/env python3
"""Check the CUDA kernels on this machine's GPU, time them, and write docs/gpu-results.md.

    scripts/gpu_check.py [--quick] [--no-tests] [--tiles] [--output FILE]

Needs a GPU, nvcc, CMake, PyTorch with CUDA, and hypothesis and pytest for the tests; with the package `mlstm_kernels`
its Triton kernels are timed beside ours, with `xlstm` its CUDA kernel, and with TensorRT's headers the plugin is tested
too.

Method: N launches on N different sets of buffers, together larger than four times the L2 cache, are captured into one
CUDA graph; the graph is replayed between two CUDA events and the median over the replays is divided by N. Our kernels,
Triton's and the copies that say what the memory can do are all timed that way, in the same run.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gpu_prefill
from gpu_bench import SLSTM_SHAPES, Bench, SlstmArgs

from xlstm_export.native import gpu_programs

ROOT = Path(__file__).resolve().parents[1]

MLSTM_SHAPES = {"7B": (8, 256, 512), "paper DH 384": (4, 384, 384), "paper DH 1024": (4, 1024, 1024)}  # H, DK, DV
BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256]
QUICK_BATCHES = [1, 8, 64]
TILES = [(4, 2), (4, 4), (4, 8), (4, 32), (1, 32)]  # vector, lanes
LARGE_TRAFFIC = 64e6  # bytes from which the kernel must reach the roofline's fraction below
REQUIRED_FRACTION, REQUIRED_RATIO = 0.85, 1.2


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


class StepBench(Bench):
    """The kernels of one position."""

    def mlstm(self, name: str, batch: int) -> MlstmTiming:
        shape = MLSTM_SHAPES[name]
        heads, dim_qk, dim_v = shape
        traffic = 2 * 4 * batch * heads * dim_qk * dim_v
        sets = [self.mlstm_buffers(shape, (batch,)) for _ in range(self.sets(traffic))]
        ours, in_place = (
            self.time(
                [
                    self.launch("xlstm_launch_mlstm", self.mlstm_args(shape, (batch,), buffers, place))
                    for buffers in sets
                ]
            )
            for place in (False, True)
        )
        return MlstmTiming(name, batch, traffic, ours, in_place, self.copy(traffic), self.triton(sets))

    def mlstm_tiles(self, name: str, batch: int) -> dict[tuple[int, int], float]:
        """Seconds with every tile there is, for tuning."""
        shape = MLSTM_SHAPES[name]
        traffic = 8 * batch * shape[0] * shape[1] * shape[2]
        sets = [self.mlstm_buffers(shape, (batch,)) for _ in range(self.sets(traffic))]
        args = [self.mlstm_args(shape, (batch,), buffers) for buffers in sets]
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
                b["C_in"],
                b["n_in"],
                b["m_in"].unsqueeze(-1),
                b["q"],
                b["k"],
                b["v"],
                **scalars,
                matC_new=b["C_out"],
                vecN_new=b["n_out"],
                scaM_new=b["m_out"].unsqueeze(-1),
            )

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


def report(
    bench: Bench,
    mlstm: list[MlstmTiming],
    slstm: list[SlstmTiming],
    prefill: gpu_prefill.Timings,
    peak: float,
    tests: str,
) -> str:
    """The Markdown page. `peak`: the largest copy bandwidth seen, bytes a second."""
    torch = bench.torch
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
    )
    lines = [
        "# The kernels on a GPU",
        "",
        "Written by `scripts/gpu_check.py`, which also says how the times are taken.",
        "",
        f"- {torch.cuda.get_device_name()}, driver {driver.stdout.strip()}, PyTorch {torch.__version__}, "
        f"{datetime.date.today()}",
        f"- copy bandwidth, bytes read and written: {peak / 1e12:.2f} TB/s, the largest over all sizes of the tables",
        f"- tests on the GPU: {tests}",
        "",
        "## mLSTM step",
        "",
        "bfloat16 activations, float32 states. Traffic: C read once and written once. Roofline: the time at the copy "
        "bandwidth above. Copy: a copy of as many bytes. Triton: the step kernel of `mlstm_kernels`.",
        "",
        "| shape | batch | traffic MB | time µs | TB/s | of roofline | of a copy | in place µs | Triton µs | ratio |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for t in mlstm:
        other = f"{t.triton * 1e6:.1f} | {t.triton / t.ours:.2f}" if t.triton else "not installed | "
        lines.append(
            f"| {t.shape} | {t.batch} | {t.traffic / 1e6:.1f} | {t.ours * 1e6:.1f} | {t.bandwidth / 1e12:.2f} | "
            f"{t.bandwidth / peak:.1%} | {t.copy / t.ours:.1%} | {t.in_place * 1e6:.1f} | {other} |"
        )
    lines += [
        "",
        "## sLSTM step",
        "",
        "bfloat16 activations, float32 states. Traffic: R once, the states once each way, input and output.",
        "",
        "| shape | batch | R | traffic MB | time µs | TB/s | of roofline |",
        "| --- | --: | --- | --: | --: | --: | --: |",
    ]
    for t in slstm:
        bandwidth = t.traffic / t.ours
        lines.append(
            f"| {t.shape} | {t.batch} | {t.recurrent} | {t.traffic / 1e6:.1f} | {t.ours * 1e6:.1f} | "
            f"{bandwidth / 1e12:.2f} | {bandwidth / peak:.1%} |"
        )
    lines += ["", *gpu_prefill.tables(prefill, peak), "", "## Verdict", ""]
    return "\n".join([*lines, *verdict(mlstm, peak), *gpu_prefill.verdict(prefill), ""])


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
    parser.add_argument("--quick", action="store_true", help=f"batches {QUICK_BATCHES} and two sequences only")
    parser.add_argument("--no-tests", action="store_true", help="timings only")
    parser.add_argument(
        "--tiles", action="store_true", help="also print the time of every tile and chunk of the mLSTM kernels"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "gpu-results.md", help="the page to write")
    options = parser.parse_args()

    if reason := gpu_programs.why_none_can_run():
        sys.exit(f"error: {reason}")
    folder = gpu_programs.build_gpu_programs()
    tests = "not run" if options.no_tests else run_tests()

    library = folder / "lib" / "libxlstm_launchers.so"
    bench = StepBench(library)
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
    prefill = gpu_prefill.measure(library, quick=options.quick, chunks=options.tiles)
    peak = max([t.traffic / t.copy for t in mlstm] + [2**31 / bench.copy(2**31)])
    page = report(bench, mlstm, slstm, prefill, peak, tests)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(page)
    print(page)
    print(options.output)
    if "**failed**" in tests:
        sys.exit(1)


if __name__ == "__main__":
    main()
