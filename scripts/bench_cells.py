#!/usr/bin/env python3
"""Time the mLSTM cell in ONNX Runtime: the function body, the CPU kernel, and what the memory allows, in one run.

    scripts/bench_cells.py                    one table, a few minutes; compiles the kernels first
    scripts/bench_cells.py --bundle DIR ...   whole steps of bundles: definitions, the cells' kernels, all kernels

`limit` is a read-modify-write stream over the same bytes of C, compiled C++ with as many threads. `cells` is how many
cells one run of the graph holds, each with its own states: with 1 the state may stay in a cache, with many it comes
from memory at every token, as in a model. Variants take turns, so that a disturbance hits all of them; times are
medians. Of whole steps with `--threads 1` it is processor time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from xlstm_export.bundle import Bundle
from xlstm_export.bundle.dtypes import DTYPES
from xlstm_export.native import cmake
from xlstm_export.native.locate import ONNXRUNTIME_LIBRARY
from xlstm_export.operators.names import DOMAIN, PLUGIN_ATTRIBUTES
from xlstm_export.operators.schemas import step_functions
from xlstm_export.runtime.onnxruntime import LAYERS_ENTRY

HEADS, DIM = 4, 384  # of the paper's 125M models
STATES = {"C": (HEADS, DIM, DIM), "n": (HEADS, DIM), "m": (HEADS,)}
MEMORY = 512 << 20  # of all states in one graph, at most
ROUNDS = 9
ONES = np.ones(1024, np.int32)  # the lengths of single steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--cells", type=int, nargs="+", default=[1, 24], help="cells in one graph")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bundle", type=Path, metavar="DIR", nargs="+")
    arguments = parser.parse_args()
    native = build()
    if arguments.bundle is not None:
        bench_bundles(arguments.bundle, native, arguments.batches, arguments.threads)
        return
    print(f"mLSTM cell, H {HEADS}, DK = DV = {DIM}, float32, {arguments.threads} threads; milliseconds a cell")
    print(
        f"{'batch':>5} {'cells':>5} {'MB moved':>9} {'body':>8} {'kernel':>8} {'in place':>8} {'limit':>8}"
        f" {'body/in place':>14} {'in place/limit':>15} {'kernel/limit':>13}"
    )
    for cells in arguments.cells:
        for batch in arguments.batches:
            bytes_each = 4 * batch * HEADS * DIM * DIM
            count = max(1, min(cells, MEMORY // bytes_each))
            body, kernel, in_place, limit = bench_cell(native, batch, count, arguments.threads)
            print(
                f"{batch:5} {count:5} {2e-6 * bytes_each:9.1f} {body:8.3f} {kernel:8.3f} {in_place:8.3f} {limit:8.3f}"
                f" {body / in_place:14.2f} {in_place / limit:15.2f} {kernel / limit:13.2f}"
            )


def build() -> Path:
    """The folder of the compiled libraries."""
    options = {"XLSTM_BUILD_RUNTIME": "OFF", "XLSTM_BUILD_ORT_OPERATORS": "ON", "XLSTM_BUILD_TESTS": "ON"}
    headers = cmake.header_options(["onnxruntime", "highway"])
    return cmake.build(options | headers, ["xlstm_onnxruntime", "xlstm_cpu_harness"]) / "lib"


@dataclass
class Runs:
    """One run after the other; a binding does not keep its arrays alive."""

    session: ort.InferenceSession
    bindings: list[ort.IOBinding]
    arrays: object

    def __call__(self) -> None:
        for binding in self.bindings:
            self.session.run_with_iobinding(binding)


def bench_cell(native: Path, batch: int, cells: int, threads: int) -> tuple[float, float, float, float]:
    """Milliseconds a cell: function body, kernel out of place, kernel in place, memory stream."""
    random = np.random.default_rng(0)
    tokens = (batch, 1, HEADS)
    inputs = {name: random.standard_normal((*tokens, DIM), np.float32) for name in "qkv"}
    inputs |= {"i": random.standard_normal(tokens, np.float32), "f": 2 + random.standard_normal(tokens, np.float32)}
    model = cell_model(batch, cells)
    body, kernel = (make_session(model, library, threads) for library in (None, native / ONNXRUNTIME_LIBRARY))
    states = [make_states(batch, cells) for _ in range(2)]
    outputs = [np.zeros((*tokens, DIM), np.float32) for _ in range(cells)]

    def turns(session: ort.InferenceSession, *pairs: tuple[list, list]) -> Runs:
        return Runs(session, [bind(session, inputs, *pair, outputs) for pair in pairs], (inputs, outputs, pairs))

    there_and_back = [(states[0], states[1]), (states[1], states[0])]
    in_place = [(states[0], states[0])] * 2
    variants = [turns(body, *there_and_back), turns(kernel, *there_and_back), turns(kernel, *in_place)]
    memory, arrays = Memory(native, threads), [state["C"] for state in states[0]]
    variants.append(lambda: (memory.update(arrays), memory.update(arrays)))
    return tuple(1e3 * seconds / (2 * cells) for seconds in take_turns(variants))


def take_turns(variants: list[Callable[[], object]], clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Median seconds of one call of each, over rounds in which each has its turn."""
    times: list[list[float]] = [[] for _ in variants]
    for _ in range(ROUNDS):
        for variant, seconds in zip(variants, times, strict=True):
            variant()  # the caches and the threads are this variant's own when it is timed
            start, runs = time.perf_counter(), 0
            while runs < 2 or (time.perf_counter() - start < 0.02):
                began = clock()
                variant()
                seconds.append(clock() - began)
                runs += 1
    return [float(np.median(seconds)) for seconds in times]


def cell_model(batch: int, cells: int) -> onnx.ModelProto:
    tokens = [batch, 1, HEADS]
    tensor = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
    inputs = [tensor(name, [*tokens, DIM]) for name in "qkv"] + [tensor(name, tokens) for name in "if"]
    outputs, nodes = [], []
    for cell in range(cells):
        old = [tensor(f"{name}{cell}", [batch, *shape]) for name, shape in STATES.items()]
        new = [tensor(f"h{cell}", [*tokens, DIM])]
        new += [tensor(f"{name}{cell}_next", [batch, *shape]) for name, shape in STATES.items()]
        nodes.append(
            helper.make_node(
                "MLSTMCell",
                [*"qkvif", *(o.name for o in old)],
                [n.name for n in new],
                domain=DOMAIN,
                k_scale=DIM**-0.5,
                **PLUGIN_ATTRIBUTES,
            )
        )
        inputs += old
        outputs += new
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(helper.make_graph(nodes, "cells", inputs, outputs), opset_imports=opsets, ir_version=10)
    model.functions.append(step_functions()["MLSTMCell"])
    return model


def make_session(model: onnx.ModelProto, library: Path | None, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    if library is not None:
        options.register_custom_ops_library(str(library))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def make_states(batch: int, cells: int) -> list[dict[str, np.ndarray]]:
    return [{name: aligned((batch, *shape)) for name, shape in STATES.items()} for _ in range(cells)]


def aligned(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """Zeros that start at a cache line, as ONNX Runtime's own buffers do."""
    size = DTYPES[dtype].itemsize * int(np.prod(shape))
    buffer = np.zeros(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size].view(DTYPES[dtype]).reshape(shape)


def bind(session: ort.InferenceSession, inputs: dict, old: list[dict], new: list[dict], outputs: list) -> ort.IOBinding:
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    for cell, (before, after) in enumerate(zip(old, new, strict=True)):
        h = outputs[cell]
        binding.bind_output(f"h{cell}", "cpu", 0, np.float32, h.shape, h.ctypes.data)
        for name in STATES:
            shape = before[name].shape
            binding.bind_input(f"{name}{cell}", "cpu", 0, np.float32, shape, before[name].ctypes.data)
            binding.bind_output(f"{name}{cell}_next", "cpu", 0, np.float32, shape, after[name].ctypes.data)
    return binding


class Memory:
    """What the memory allows, on a thread pool of its own."""

    def __init__(self, native: Path, threads: int):
        self._library = ctypes.CDLL(str(native / "libxlstm_cpu_harness.so"))
        self._library.xlstm_pool_create.restype = ctypes.c_void_p
        self._pool = ctypes.c_void_p(self._library.xlstm_pool_create(ctypes.c_int64(threads)))

    def update(self, arrays: list[np.ndarray]) -> None:
        """Read, modify and write every element."""
        for array in arrays:
            self._library.xlstm_read_modify_write(*self._words(array), self._pool)

    def read(self, arrays: list[np.ndarray]) -> None:
        for array in arrays:
            self._library.xlstm_read(*self._words(array), self._pool)

    @staticmethod
    def _words(array: np.ndarray) -> tuple[ctypes.c_void_p, ctypes.c_int64]:
        return ctypes.c_void_p(array.ctypes.data), ctypes.c_int64(array.nbytes // 4)


def bench_bundles(folders: list[Path], native: Path, batches: list[int], threads: int) -> None:
    """Whole steps of bundles: a line each, whose variants all take turns."""
    opened = [Bundle.open(folder) for folder in folders]
    memory = Memory(native, threads)
    for bundle in opened:
        nodes, weight_bytes = len(bundle.graph.graph.node), bundle.step_bytes
        print(f"{bundle.path.name}: {nodes} nodes, {weight_bytes / 1e6:.1f} MB of weights")
    clock = time.process_time if threads == 1 else time.perf_counter
    print(f"{threads} threads; milliseconds a step, and times the limit")
    heads = ("definitions", "cells", "all kernels")
    print(f"{'batch':>5} {'bundle':>20} {'states MB':>10} {' '.join(f'{head:>16}' for head in heads)} {'limit':>8}")
    sessions = [bundle_sessions(bundle, native, threads) for bundle in opened]
    for batch in batches:
        pairs = zip(opened, sessions, strict=True)
        variants = [variant for pair in pairs for variant in bundle_variants(*pair, memory, batch)]
        times = iter(1e3 * seconds / 2 for seconds in take_turns(variants, clock))
        for bundle in opened:
            *measured, limit = (next(times) for _ in range(4))
            columns = " ".join(f"{t:8.3f} ({t / limit:4.2f}x)" for t in measured)
            states = bundle.manifest.state_bytes(batch) / 1e6
            print(f"{batch:5} {bundle.path.name:>20} {states:10.1f} {columns} {limit:8.3f}")


def bundle_sessions(bundle: Bundle, native: Path, threads: int) -> list[ort.InferenceSession]:
    """Without our kernels, with those of the cells, and with all."""
    sessions = []
    for layers in (None, "0", "1"):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        if layers is not None:
            options.add_session_config_entry(LAYERS_ENTRY, layers)
            options.register_custom_ops_library(str(native / ONNXRUNTIME_LIBRARY))
        sessions.append(ort.InferenceSession(str(bundle.model_file), options, providers=["CPUExecutionProvider"]))
    return sessions


def bundle_variants(bundle: Bundle, sessions: list, memory: Memory, batch: int) -> list[Callable[[], object]]:
    """Two steps each: definitions, the cells' kernels, all kernels (states in place where kernels run), the limit."""
    manifest, size = bundle.manifest, bundle.step_bytes
    weights = [aligned((min(size, 64 << 20) // 4,)) for _ in range(-(-size // (64 << 20)))]
    for part in weights:
        part[:] = 1  # pages of its own: untouched ones would all be the same page of zeros
    one, other = ({s: aligned((batch, *s.shape[1:]), s.dtype) for s in manifest.states} for _ in range(2))
    shared = {state: (one if state.in_place else other)[state] for state in one}
    x = np.ones(manifest.input.sized(batch), manifest.input.dtype)
    y = np.zeros(manifest.output.sized(batch), manifest.output.dtype)

    def step(session: ort.InferenceSession, *pairs: tuple[dict, dict]) -> Runs:
        return Runs(session, [bind_bundle(session, manifest, x, y, *pair) for pair in pairs], (x, y, pairs))

    return [
        step(sessions[0], (one, other), (other, one)),
        step(sessions[1], (one, shared), (shared, one)),
        step(sessions[2], (one, shared), (shared, one)),
        lambda: [(memory.read(weights), memory.update(list(one.values()))) for _ in range(2)],
    ]


def bind_bundle(session, manifest, x: np.ndarray, y: np.ndarray, before: dict, after: dict) -> ort.IOBinding:
    binding = session.io_binding()
    binding.bind_input(manifest.input.name, "cpu", 0, x.dtype, x.shape, x.ctypes.data)
    binding.bind_output(manifest.output.name, "cpu", 0, y.dtype, y.shape, y.ctypes.data)
    if manifest.lengths is not None:
        binding.bind_input(manifest.lengths.name, "cpu", 0, np.int32, [len(x)], ONES.ctypes.data)
    for state in manifest.states:
        old, new = before[state], after[state]
        element = helper.np_dtype_to_tensor_dtype(old.dtype)
        binding.bind_input(state.input, "cpu", 0, element, old.shape, old.ctypes.data)
        binding.bind_output(state.output, "cpu", 0, element, new.shape, new.ctypes.data)
    return binding


if __name__ == "__main__":
    main()
