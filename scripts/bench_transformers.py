#!/usr/bin/env python3
"""Our export of `xLSTMForCausalLM` beside that of transformers' own ONNX exporter: nodes, speed, parity, memory.

    scripts/bench_transformers.py                      a small model with random weights, minutes
    scripts/bench_transformers.py --model FOLDER       a Hugging Face checkpoint
    scripts/bench_transformers.py --wide 2,4           memory of exporting so many blocks at the width of xLSTM-7B

Both decode graphs run in ONNX Runtime with every input and output bound, in turns with a memory stream; both are held
against the PyTorch model after --steps tokens, states included. --wide exports bfloat16 checkpoints of random values
with both, each in a process of its own whose address space is limited to --most-gb.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import bench_export_7b
import numpy as np
from rich.console import Console
from rich.table import Table

from xlstm_export.benchmark.contender import Contender
from xlstm_export.benchmark.job import Job, Source
from xlstm_export.benchmark.report import noise_line
from xlstm_export.benchmark.rounds import Limit, start, take_turns
from xlstm_export.benchmark.transformers_export import ExportRunner
from xlstm_export.bundle import Bundle
from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.native.locate import ONNXRUNTIME_LIBRARY, find_library
from xlstm_export.references.load import load_upstream
from xlstm_export.runtime import open_session
from xlstm_export.validation import metrics
from xlstm_export.validation.upstream import UpstreamSession

OURS, THEIRS = "xlstm-export", "transformers"
SMALL = {"vocab_size": 2048, "hidden_size": 256, "num_hidden_layers": 4, "num_heads": 4}
KERNELS = {
    "chunkwise_kernel": "chunkwise--native_autograd",
    "sequence_kernel": "native_sequence__native",
    "step_kernel": "native",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="FOLDER")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--wide", metavar="N,...", help="numbers of blocks")
    parser.add_argument("--most-gb", type=float, default=12, help="address space of an export with --wide")
    parser.add_argument("--work", type=Path, default=None, help="a folder for the wide checkpoints; by default /tmp")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        if arguments.wide:
            bench_memory([int(n) for n in arguments.wide.split(",")], arguments.most_gb, Path(folder))
        else:
            bench(arguments.model or small_model(Path(folder) / "model"), Path(folder), arguments)


def small_model(folder: Path) -> Path:
    """A checkpoint of random weights, whose gates are not all alike."""
    import torch
    from transformers import xLSTMForCausalLM
    from transformers.models.xlstm.configuration_xlstm import xLSTMConfig

    torch.manual_seed(0)
    model = xLSTMForCausalLM(xLSTMConfig(**SMALL, **KERNELS, mode="inference"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate_preact" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def bench(model: Path, folder: Path, arguments: argparse.Namespace) -> None:
    library = find_library(ONNXRUNTIME_LIBRARY)
    ours, theirs = folder / "bundle", folder / "transformers"
    mine = measured(OUR_EXPORT.format(["onnx", str(model), "-o", str(ours)]))
    job = Job("transformers-export", str(ours), 1, source=Source(str(model)), folder=str(theirs))
    began = time.perf_counter()
    with Contender(THEIRS, job) as export:
        seconds, (peak, _), nodes = time.perf_counter() - began, export.ask("memory"), export.ask("nodes")
    bundle = Bundle.open(ours)
    table = Table("", OURS, THEIRS, title=f"{model.name}: {bundle.step_bytes / 1e6:.1f} MB of weights a step")
    graphs = ", ".join(f"{name}: {count} nodes" for name, count in nodes.items())
    table.add_row("graphs", f"one: {len(bundle.graph.graph.node)} nodes", graphs)
    table.add_row("export", mine, f"{peak / 1e9:.2f} GB, {seconds:.0f} s")
    for name, own, other in parity(model, bundle, theirs, library, arguments.steps):
        table.add_row(name, f"{own:.1e}", f"{other:.1e}")
    lines = []
    for batch in arguments.batches:
        how = Job("bundle", str(ours), batch, library=None if library is None else str(library), folder=str(theirs))
        jobs = [("memory", replace(how, kind="memory")), ("definitions", how)]
        if library is not None:
            jobs.append(("kernels", replace(how, custom_ops=str(library))))
        with ExitStack() as stack:
            memory, *mine = start(stack, jobs, arguments.threads)
            (other,) = start(stack, [(THEIRS, replace(how, kind="transformers"))], arguments.threads)
            (*own, peer), seconds = take_turns([*mine, other], memory, arguments.steps)
        limit = Limit(bundle.step_bytes, bundle.manifest.state_bytes(batch), *zip(*seconds, strict=True))
        times = ", ".join(f"{1e3 * t.median:.3f} ms ({t.name})" for t in own)
        table.add_row(f"a step, batch {batch}", times, f"{1e3 * peer.median:.3f} ms")
        shares = [f"{t.ratio(limit.rounds.tolist()):.2f}" for t in (*own, peer)]
        table.add_row(f"times the limit, batch {batch}", ", ".join(shares[:-1]), shares[-1])
        lines.append(noise_line(limit))
    Console(width=120).print(table, *lines)


def parity(
    model: Path, bundle: Bundle, theirs: Path, library: Path | None, steps: int
) -> list[tuple[str, float, float]]:
    """Largest errors against the PyTorch model after so many tokens: logits by their spread, states by their scale."""
    manifest, rows = bundle.manifest, 2
    upstream = load_upstream(open_checkpoint(model))
    reference = UpstreamSession(upstream, {s.input: s.sized(1)[1:] for s in manifest.states}, rows)
    peer = ExportRunner(manifest, Job("transformers", str(bundle.path), rows, folder=str(theirs)))
    tokens = np.random.default_rng(1).integers(0, manifest.vocab_size, (steps, rows, 1))
    worst = np.zeros(2)
    with open_session(bundle, "onnxruntime", rows, library) as session:
        for fed in tokens:
            expected = reference.step(fed)[:, 0]
            given = session.step(fed)[:, 0], peer.feed(fed)[:, 0]
            worst = np.maximum(worst, [metrics.relative_error(expected, actual).max() for actual in given])
        states, own, native = reference.read_states(), session.read_states(), peer.read_states()
    other = {}
    for block in range(len(states) // 3):
        for index, name in enumerate("Cnm"):
            at = f"blocks.{block}.mlstm.{name}"
            other[at] = native[f"rnn_state.{block}.{index}"].reshape(states[at].shape)
    errors = [max(metrics.state_errors(states, mine).values()) for mine in (own, other)]
    return [(f"logits, {steps} steps", *worst), ("states after them", *errors)]


def bench_memory(blocks: list[int], most_gb: float, folder: Path) -> None:
    table = Table("blocks", "weights", OURS, THEIRS, title="Memory to export bfloat16 at the width of xLSTM-7B")
    for count in blocks:
        checkpoint = folder / f"checkpoint-{count}"
        total = bench_export_7b.write_shards(checkpoint, count)
        bundle = folder / f"bundle-{count}"
        link = ["onnx", str(checkpoint), "-o", str(bundle), "--dtype", "bfloat16", "--link-weights"]
        programs = OUR_EXPORT.format(link), THEIR_EXPORT.format(str(checkpoint), str(folder / "theirs"))
        found = [measured(program, most_gb) for program in programs]
        table.add_row(str(count), f"{total / 1e9:.2f} GB", *found)
        for made in (checkpoint, bundle, folder / "theirs"):
            shutil.rmtree(made, ignore_errors=True)
    Console(width=120).print(table)


OUR_EXPORT = """
import sys
from xlstm_export.cli import main
sys.argv[1:] = {!r}
main()
"""
THEIR_EXPORT = """
import torch
from transformers import xLSTMForCausalLM
from transformers.exporters import OnnxExporter
from transformers.exporters.configs import OnnxConfig
model = xLSTMForCausalLM.from_pretrained({!r}, dtype=torch.bfloat16, chunkwise_kernel="chunkwise--native_autograd",
    sequence_kernel="native_sequence__native", step_kernel="native", mode="inference").eval()
inputs = {{"input_ids": torch.zeros(2, 8, dtype=torch.int64)}}
OnnxExporter().export_for_generation(model, inputs, OnnxConfig(dynamic=True)).save_pretrained({!r})
"""
TELL_PEAK = """
import atexit, sys
from xlstm_export.benchmark.worker import peak_memory
atexit.register(lambda: print("peak", peak_memory(), file=sys.stderr))
"""


def measured(program: str, most_gb: float | None = None) -> str:
    """Peak memory and time of a program, in an address space of so many GB, or how it ended."""

    def limit() -> None:
        if most_gb is not None:
            resource.setrlimit(resource.RLIMIT_AS, (int(most_gb * 1e9),) * 2)

    began = time.perf_counter()
    command = [sys.executable, "-c", TELL_PEAK + program]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    seconds, lines = time.perf_counter() - began, done.stderr.strip().splitlines()
    peak = next((int(line.split()[1]) for line in lines if line.startswith("peak ")), 0)
    if done.returncode == 0:
        return f"{peak / 1e9:.2f} GB, {seconds:.0f} s"
    last = next((line for line in reversed(lines) if not line.startswith("peak ")), "no message")
    return f"failed after {seconds:.0f} s at {peak / 1e9:.2f} GB: {last[:100]}"


if __name__ == "__main__":
    main()
