"""Timings of the kernels over whole sequences, for gpu_check.py: beside upstream's kernels and single steps."""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gpu_bench import SLSTM_SHAPES, Bench, SlstmArgs

MLSTM_SHAPE = (8, 256, 512)  # xLSTM-7B: H, DK, DV
SEQUENCES = [256, 512, 1024, 2048, 4096, 8192]
QUICK_SEQUENCES = [512, 4096]
BATCHES = [1, 8]
SLSTM_SEQUENCE = 512
CHUNKS = [(64, 32), (64, 16)]  # length, columns
TRITON_CHUNK = 128  # positions, the default of mlstm_kernels
REQUIRED_RATIO = 1.0  # of Triton's time to ours


@dataclass(frozen=True)
class MlstmPrefill:
    """Times in seconds. Traffic: C once each way, q, k, v and h. Operations: q C and k v^T for every position, the
    least that any form must do."""

    batch: int
    sequence: int
    traffic: int
    operations: int
    ours: float
    in_place: float
    triton: float | None
    product_rate: float  # operations a second of a large TF32 product, on this device

    def roofline(self, bandwidth: float) -> float:
        return max(self.traffic / bandwidth, self.operations / self.product_rate)


@dataclass(frozen=True)
class SlstmPrefill:
    shape: str
    batch: int
    recurrent: str
    sequence: int
    ours: float
    stepwise: float  # a launch for each position
    upstream: float | None


@dataclass
class Timings:
    mlstm: list[MlstmPrefill] = field(default_factory=list)
    slstm: list[SlstmPrefill] = field(default_factory=list)
    without_upstream: str = ""  # why there is no time of the xlstm package


class PrefillBench(Bench):
    """The kernels of a sequence."""

    def product_rate(self) -> float:
        torch, size = self.torch, 8192
        torch.backends.cuda.matmul.allow_tf32 = True
        a, b, c = (torch.randn(size, size, device="cuda") for _ in range(3))
        rate = 2 * size**3 / self.time([lambda: torch.matmul(a, b, out=c)])
        torch.backends.cuda.matmul.allow_tf32 = False
        return rate

    def mlstm(self, batch: int, sequence: int, product_rate: float) -> MlstmPrefill:
        heads, dim_qk, dim_v = MLSTM_SHAPE
        tokens = batch * sequence * heads
        traffic = 8 * batch * heads * dim_qk * dim_v + 2 * tokens * (2 * dim_qk + 2 * dim_v + 2)
        sets = [self.mlstm_buffers(MLSTM_SHAPE, (batch, sequence)) for _ in range(self.sets(traffic))]
        ours, in_place = (
            self.time(
                [
                    self.launch("xlstm_launch_mlstm", self.mlstm_args(MLSTM_SHAPE, (batch, sequence), buffers, place))
                    for buffers in sets
                ]
            )
            for place in (False, True)
        )
        operations = 4 * tokens * dim_qk * dim_v
        return MlstmPrefill(batch, sequence, traffic, operations, ours, in_place, self.triton(sets), product_rate)

    def mlstm_chunks(self, batch: int, sequence: int) -> dict[tuple[int, int], float]:
        """Seconds with every shape of the chunkwise kernel, for tuning."""
        tokens = (batch, sequence)
        args = self.mlstm_args(MLSTM_SHAPE, tokens, self.mlstm_buffers(MLSTM_SHAPE, tokens))
        return {chunk: self.time([self.launch("xlstm_launch_mlstm_chunkwise", args, *chunk)]) for chunk in CHUNKS}

    def triton(self, sets: list[dict]) -> float | None:
        """The chunkwise forward pass of mlstm_kernels, on tensors as it wants them; None where it is not."""
        try:
            from mlstm_kernels.torch.chunkwise.triton_xl_chunk.fw import mlstm_chunkwise_fw as forward
        except ImportError:
            return None

        def launch(b: dict) -> Callable[[], object]:
            matrices = {f"mat{name.upper()}": b[name].transpose(1, 2).contiguous() for name in "qkv"}
            # Its gates are capped before; it takes the logarithm of the sigmoid itself.
            gates = {f"vec{name.upper()}": b[name].transpose(1, 2).contiguous() for name in "if"}
            states = {"matC_initial": b["C_in"], "vecN_initial": b["n_in"], "scaM_initial": b["m_in"].unsqueeze(-1)}
            return lambda: forward(
                **matrices,
                **gates,
                **states,
                return_last_states=True,
                chunk_size=TRITON_CHUNK,
                eps=1e-6,
                output_dtype=self.torch.bfloat16,
            )

        return self.time([launch(buffers) for buffers in sets])

    def slstm_buffers(self, shape: tuple[int, int], batch: int, recurrent: str) -> dict:
        torch, (heads, dim) = self.torch, shape
        new = lambda *size, dtype=torch.float32: torch.rand(*size, device="cuda", dtype=dtype)  # noqa: E731
        half = torch.bfloat16
        b = {"x": new(batch, SLSTM_SEQUENCE, 4, heads, dim, dtype=half)}
        b |= {"R": (new(heads, 4, dim, dim) / dim).to(getattr(torch, recurrent)), "b": new(4, heads, dim)}
        b["hidden"] = new(batch, SLSTM_SEQUENCE, heads, dim, dtype=half)
        b |= {f"{state}_{side}": new(batch, heads, dim) for state in "ycnm" for side in ("in", "out")}
        return b

    def slstm(self, name: str, batch: int, recurrent: str, upstream: float | None) -> SlstmPrefill:
        shape = heads, dim = SLSTM_SHAPES[name]
        buffers = self.slstm_buffers(shape, batch, recurrent)
        size = self.library.xlstm_slstm_workspace_size(*map(ctypes.c_int64, (batch, heads, dim)))
        workspace = self.torch.empty(size, dtype=self.torch.uint8, device="cuda")

        def args(sequence: int) -> SlstmArgs:
            made = SlstmArgs(batch, sequence, heads, dim, 2, 0 if recurrent == "float32" else 2)
            for key, tensor in buffers.items():
                setattr(made, key, tensor.data_ptr())
            return made

        address = ctypes.c_void_p(workspace.data_ptr())
        ours = self.time([self.launch("xlstm_launch_slstm", args(SLSTM_SEQUENCE), address)])
        step = self.launch("xlstm_launch_slstm", args(1), address)
        stepwise = self.time([step] * SLSTM_SEQUENCE) * SLSTM_SEQUENCE
        return SlstmPrefill(name, batch, recurrent, SLSTM_SEQUENCE, ours, stepwise, upstream)

    def upstream_slstm(self, name: str, batch: int) -> float:
        """The CUDA kernel of the xlstm package, compiled when first used, with its own permutations of the input left
        out. Its launches and products of cuBLAS are timed without a CUDA graph."""
        from xlstm.blocks.slstm.cell import sLSTMCell, sLSTMCellConfig

        torch, (heads, dim) = self.torch, SLSTM_SHAPES[name]
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
        return statistics.median(times[3:])


def measure(library: Path, quick: bool, chunks: bool) -> Timings:
    bench, timings = PrefillBench(library), Timings()
    rate = bench.product_rate()
    for batch in BATCHES:
        for sequence in QUICK_SEQUENCES if quick else SEQUENCES:
            timings.mlstm.append(bench.mlstm(batch, sequence, rate))
            print(timings.mlstm[-1], flush=True)
            if chunks:
                print("  chunks µs", {c: round(t * 1e6, 1) for c, t in bench.mlstm_chunks(batch, sequence).items()})
            bench.torch.cuda.empty_cache()
    for name in SLSTM_SHAPES:
        for batch in BATCHES:
            upstream = None
            try:
                upstream = bench.upstream_slstm(name, batch)
            except Exception as problem:  # whatever stops another project's build from working here
                timings.without_upstream = f"{type(problem).__name__}: {problem}".splitlines()[0][:200]
            for recurrent in ("float32", "bfloat16"):
                timings.slstm.append(bench.slstm(name, batch, recurrent, upstream))
                print(timings.slstm[-1], flush=True)
    return timings


def tables(timings: Timings, peak: float) -> list[str]:
    """Lines of Markdown. `peak`: the bandwidth of a copy, bytes a second."""
    rate = timings.mlstm[0].product_rate
    lines = [
        "## mLSTM prefill",
        "",
        "The shape of 7B, bfloat16 activations, float32 states. Roofline: the larger of the traffic at the copy "
        f"bandwidth and the operations at {rate / 1e12:.0f} TFLOP/s, the rate of a large TF32 product here. Triton: "
        f"the chunkwise forward pass of `mlstm_kernels` in chunks of {TRITON_CHUNK}.",
        "",
        "| batch | positions | time µs | µs a position | TFLOP/s | of roofline | in place µs | Triton µs | ratio |",
        "| --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for t in timings.mlstm:
        other = f"{t.triton * 1e6:.1f} | {t.triton / t.ours:.2f}" if t.triton else "not installed | "
        lines.append(
            f"| {t.batch} | {t.sequence} | {t.ours * 1e6:.1f} | {t.ours * 1e6 / t.sequence:.3f} | "
            f"{t.operations / t.ours / 1e12:.1f} | {t.roofline(peak) / t.ours:.1%} | {t.in_place * 1e6:.1f} | {other} |"
        )
    lines += [
        "",
        "## sLSTM prefill",
        "",
        f"{SLSTM_SEQUENCE} positions, bfloat16 activations, float32 states. Stepwise: a launch for each position. "
        "Upstream: the CUDA kernel of the `xlstm` package, everything in bfloat16.",
    ]
    if timings.without_upstream:
        lines += ["", f"Upstream's kernel did not run everywhere: {timings.without_upstream}"]
    lines += [
        "",
        "| shape | batch | R | time µs | µs a position | stepwise µs | ratio | upstream µs | ratio |",
        "| --- | --: | --- | --: | --: | --: | --: | --: | --: |",
    ]
    for t in timings.slstm:
        other = f"{t.upstream * 1e6:.1f} | {t.upstream / t.ours:.2f}" if t.upstream else "none | "
        lines.append(
            f"| {t.shape} | {t.batch} | {t.recurrent} | {t.ours * 1e6:.1f} | {t.ours * 1e6 / t.sequence:.2f} | "
            f"{t.stepwise * 1e6:.1f} | {t.stepwise / t.ours:.2f} | {other} |"
        )
    return lines


def verdict(timings: Timings) -> list[str]:
    lines = []
    compared = [t for t in timings.mlstm if t.triton]
    if compared:
        worst = min(compared, key=lambda t: t.triton / t.ours)
        ratio = worst.triton / worst.ours
        lines.append(
            f"- mLSTM prefill against Triton: at least {ratio:.2f}x (batch {worst.batch}, {worst.sequence} positions); "
            f"required {REQUIRED_RATIO}x: {'reached' if ratio >= REQUIRED_RATIO else '**missed**'}"
        )
    worst = min(timings.slstm, key=lambda t: t.stepwise / t.ours)
    lines.append(
        f"- sLSTM prefill against a launch for each position: at least {worst.stepwise / worst.ours:.2f}x "
        f"({worst.shape}, batch {worst.batch}, R in {worst.recurrent})"
    )
    return lines
