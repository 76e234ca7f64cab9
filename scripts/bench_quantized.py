"""Steps of quantised bundles against the float32 bundle that they were made from, and what of them the products take.

    python scripts/bench_quantized.py BUNDLE QUANTISED... [--custom-ops LIB] [--threads 1] [--turns 12] [--batch 1]

Bundles take turns of some steps, so that what else the machine does falls on all alike; the first step of a turn, which
finds the caches full of another's weights, does not count. Products are timed by ONNX Runtime's profiler in a run of
their own. The limit is reading the bundle's weights once, at the bandwidth that is measured here.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from rich.console import Console
from rich.table import Table

from xlstm_export.bundle import Bundle
from xlstm_export.bundle.dtypes import DTYPES
from xlstm_export.bundle.engine_record import Activations
from xlstm_export.runtime import open_session

STEPS = 6
"""Of one turn."""
PRODUCTS = ("QuantizedMatMul", "MatMulNBits", "Linear", "LinearWithBias", "MatMul", "Gemm", "FusedMatMul")


def product_share(bundle: Bundle, batch: int, library: Path | None, activations: Activations) -> float:
    """Of the time that the nodes of a step take, the products'."""
    options = ort.SessionOptions()
    options.enable_profiling, options.log_severity_level = True, 3
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    level = "1" if activations == "float32" else "4"
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", level)
    if library:
        options.register_custom_ops_library(str(library.resolve()))
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(bundle.model_file), options, providers=["CPUExecutionProvider"])
        manifest = bundle.manifest
        fed = {s.input: np.zeros(s.sized(batch), DTYPES[s.dtype]) for s in manifest.states}
        fed[manifest.input.name] = np.zeros((batch, 1), np.int64)
        if manifest.lengths:
            fed[manifest.lengths.name] = np.ones(batch, np.int32)
        for _ in range(20):
            session.run(None, fed)
        events = json.loads(Path(session.end_profiling()).read_text())
    times: Counter[bool] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"] in PRODUCTS] += event["dur"]
    return times[True] / sum(times.values())


def read_bandwidth() -> float:
    """Bytes a second of a sum over more than the caches hold."""
    stream, times = torch.ones(64 << 20), []
    for _ in range(7):
        start = time.perf_counter()
        stream.sum()
        times.append(time.perf_counter() - start)
    return stream.nbytes / min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--custom-ops", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--batch", type=int, default=1)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    torch.set_num_threads(args.threads)
    bundles = [Bundle.open(path) for path in args.bundles]
    variants: list[tuple[Bundle, Activations]] = [(b, "int8") for b in bundles]
    variants += [(b, "float32") for b in bundles if (b.manifest.quantization or {}).get("weights") == "int4"]
    sessions = [open_session(b, "onnxruntime", args.batch, args.custom_ops, activations=a) for b, a in variants]
    tokens, seconds = np.zeros((args.batch, 1), np.int64), np.zeros((args.turns, STEPS, len(sessions)))
    for turn in range(args.turns):
        for column, session in enumerate(sessions):
            for step in range(STEPS):
                start = time.perf_counter()
                session.step(tokens)
                seconds[turn, step, column] = time.perf_counter() - start
    seconds = seconds[1:, 1:].reshape(-1, len(sessions))
    read = read_bandwidth()
    best, median = seconds.min(0), np.median(seconds, 0)
    title = f"a step, batch {args.batch}, {args.threads} threads, load {os.getloadavg()[0]:.1f}"
    table = Table(
        "bundle", "activations", "least", "median", "times as fast", "times its limit", "products", title=title
    )
    for column, (bundle, activations) in enumerate(variants):
        limit = (bundle.step_bytes + 2 * bundle.manifest.state_bytes(args.batch)) / read
        share = product_share(bundle, args.batch, args.custom_ops, activations)
        table.add_row(
            bundle.path.name,
            activations if bundle.manifest.quantization else "",
            f"{1e3 * best[column]:.2f} ms",
            f"{1e3 * median[column]:.2f} ms",
            f"{best[0] / best[column]:.2f} / {median[0] / median[column]:.2f}",
            f"{best[column] / limit:.2f}",
            f"{100 * share:.0f} %",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
