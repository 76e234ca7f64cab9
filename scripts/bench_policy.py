#!/usr/bin/env python3
"""Latency of the control policy in `models/examples/pole`, one call at a time on one thread.

    scripts/bench_policy.py

C++ (`xlstm-pole`, which simulates the plant between the calls), a Python session, the module as upstream's package runs
it, and through `torch.compile`: in turns, so that a disturbance hits every variant; microseconds over all calls. Every
variant's calls feed on the state of the one before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from bench_cells import build

import xlstm_export
from xlstm_export.native import cmake
from xlstm_export.native.locate import ONNXRUNTIME_LIBRARY
from xlstm_export.networks import load_module

ROOT = Path(__file__).resolve().parent.parent
POLE = ROOT / "models" / "examples" / "pole"
PERCENTILES = (50, 99, 99.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=4000, help="of C++ in one round; a tenth of PyTorch")
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # which sessions go by
    torch.set_num_threads(1)
    library = build() / ONNXRUNTIME_LIBRARY
    program = build_program()
    module = load_module(f"{POLE / 'network.py'}:build", POLE / "ckpt.pt")
    with tempfile.TemporaryDirectory() as folder:
        bundle = xlstm_export.export_network(module, {"observation": "B,2"}, Path(folder) / "pole", batch=1)
        session = xlstm_export.open_session(bundle, custom_ops=library)
        plain = xlstm_export.open_session(bundle, custom_ops="none")
        few = arguments.calls // 10
        variants: dict[str, Callable[[], np.ndarray]] = {
            "C++, our kernels": lambda: cpp(program, bundle.path, library, arguments.calls),
            "C++, definitions": lambda: cpp(program, bundle.path, None, arguments.calls),
            "Python session, our kernels": lambda: in_session(session, arguments.calls),
            "Python session, definitions": lambda: in_session(plain, arguments.calls),
            "PyTorch eager": lambda: in_torch(module, few),
        }
        if not arguments.no_compile:
            compiled = torch.compile(module)
            variants["torch.compile"] = lambda: in_torch(compiled, few)
        for run in variants.values():
            run()  # warm: compiled, bound, in the cache
        taken: dict[str, list[np.ndarray]] = {name: [] for name in variants}
        for _ in range(arguments.rounds):
            for name, run in variants.items():
                taken[name].append(run())
    report({name: np.concatenate(rounds) for name, rounds in taken.items()})


def build_program() -> Path:
    """`xlstm-pole`, as users build it."""
    options = {"XLSTM_RUNTIME_TRT": "OFF"} | cmake.header_options(["onnxruntime", "json"])
    return next(cmake.build(options, ["xlstm-pole"]).rglob("xlstm-pole"))


def cpp(program: Path, bundle: Path, library: Path | None, calls: int) -> np.ndarray:
    """Microseconds of each call; the program prints percentiles alone, so it writes what it measured."""
    onnxruntime = next((Path(ort.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    with tempfile.NamedTemporaryFile(suffix=".f64") as file:
        command = [program, bundle, "--steps", calls, "--onnxruntime", onnxruntime, "--latencies", file.name]
        command += [] if library is None else ["--custom-ops", library]
        result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
        assert json.loads(result.stdout)["stood"] == calls, "the pole fell: this is not the trained policy"
        return np.fromfile(file.name)


def in_session(session: xlstm_export.Session, calls: int) -> np.ndarray:
    observation = {"observation": np.array([[0.01, 0.02]], np.float32)}
    return timed(lambda: session.run(observation), calls)


@torch.inference_mode()
def in_torch(module: Callable[..., tuple[torch.Tensor, dict]], calls: int) -> np.ndarray:
    observation, state = torch.tensor([[0.01, 0.02]]), [None]

    def call() -> None:
        _, state[0] = module(observation, state[0])

    return timed(call, calls)


def timed(call: Callable[[], object], calls: int) -> np.ndarray:
    for _ in range(20):
        call()
    times = np.empty(calls)
    for index in range(calls):
        start = time.perf_counter()
        call()
        times[index] = time.perf_counter() - start
    return 1e6 * times


def report(taken: dict[str, np.ndarray]) -> None:
    eager = np.median(taken["PyTorch eager"])
    print(f"{'one call, microseconds':30}" + "".join(f"{f'p{p:g}':>10}" for p in PERCENTILES) + f"{'eager / this':>15}")
    for name, times in taken.items():
        percentiles = np.percentile(times, PERCENTILES)
        print(f"{name:30}" + "".join(f"{p:10.1f}" for p in percentiles) + f"{eager / percentiles[0]:14.1f}x")


if __name__ == "__main__":
    main()
