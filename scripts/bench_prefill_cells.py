#!/usr/bin/env python3
"""Time both cells over sequences in ONNX Runtime: one call of S positions, S calls of one, and the processor's limit.

    scripts/bench_prefill_cells.py            one table, a minute; compiles the kernels first

`limit` of the mLSTM is the time of its multiply-adds (four times DK x DV and (L + 1) (DK + DV), with chunks of L = 64
positions, for each head and position, in flops) at the rate of ONNX Runtime's own float32 MatMul of 1024 x 1024
matrices, in the same run and with as many threads. The sLSTM has no such limit: one position must follow the other.
States are updated in place. Variants take turns; times are medians, for batch 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import bench_cells
import numpy as np
import onnx
import onnxruntime as ort
from bench_cells import DOMAIN, ONNXRUNTIME_LIBRARY, PLUGIN_ATTRIBUTES, Runs, aligned, make_session, take_turns
from onnx import TensorProto, helper

HEADS = 4
CHUNK = 64
MATRIX = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    library, threads = bench_cells.build() / ONNXRUNTIME_LIBRARY, arguments.threads
    print(f"batch 1, H {HEADS}, float32, {threads} threads; microseconds a position")
    print(
        f"{'cell':>16} {'S':>5} {'steps':>8} {'sequence':>9} {'limit':>8} {'steps/sequence':>15}"
        f" {'sequence/limit':>15} {'MatMul':>12}"
    )
    for dim_qk, dim_v in ((384, 384), (96, 192)):
        flops = 2 * HEADS * (2 * dim_qk * dim_v + (CHUNK + 1) * (dim_qk + dim_v) / 2)
        for sequence in arguments.sequences:
            variants = [*cell_variants("MLSTMCell", mlstm_tensors(dim_qk, dim_v), sequence, library, threads)]
            *times, matmul = take_turns([*variants, matmul_variant(threads)])
            rate = 2 * MATRIX**3 / matmul
            steps, whole = (1e6 * seconds / sequence for seconds in times)
            limit = 1e6 * flops / rate
            print(
                f"{f'mLSTM {dim_qk} x {dim_v}':>16} {sequence:5} {steps:8.2f} {whole:9.2f} {limit:8.2f}"
                f" {steps / whole:15.2f} {whole / limit:15.2f} {rate / 1e9:5.0f} GFLOP/s"
            )
    for sequence in arguments.sequences:
        times = take_turns([*cell_variants("SLSTMCell", slstm_tensors(192), sequence, library, threads)])
        steps, whole = (1e6 * seconds / sequence for seconds in times)
        print(f"{'sLSTM 192':>16} {sequence:5} {steps:8.2f} {whole:9.2f} {'':8} {steps / whole:15.2f}")


# Shapes by name, of inputs in the operator's order: S stands for the sequence. States keep their name in the output.


def mlstm_tensors(dim_qk: int, dim_v: int) -> dict[str, tuple]:
    tokens, states = (1, "S", HEADS), (1, HEADS)
    return {
        "q": (*tokens, dim_qk),
        "k": (*tokens, dim_qk),
        "v": (*tokens, dim_v),
        "i": tokens,
        "f": tokens,
        "C": (*states, dim_qk, dim_v),
        "n": (*states, dim_qk),
        "m": states,
        "h": (*tokens, dim_v),
    }


def slstm_tensors(dim: int) -> dict[str, tuple]:
    state = (1, HEADS, dim)
    return {
        "x": (1, "S", 4, HEADS, dim),
        "R": (HEADS, 4, dim, dim),
        "b": (4, HEADS, dim),
        "y": state,
        "c": state,
        "n": state,
        "m": state,
        "h": (1, "S", HEADS, dim),
    }


STATES = {"MLSTMCell": "Cnm", "SLSTMCell": "ycnm"}


def cell_variants(cell: str, tensors: dict, sequence: int, library: Path, threads: int) -> tuple[Runs, Runs]:
    """All positions in single steps, and in one call. Both start from the states that the last call left."""
    random = np.random.default_rng(0)
    arrays = {}
    for name, shape in tensors.items():
        arrays[name] = aligned(tuple(sequence if axis == "S" else axis for axis in shape))
        if name not in STATES[cell] + "h":
            arrays[name][:] = random.standard_normal(arrays[name].shape) * (0.01 if name == "R" else 1)
    session = make_session(cell_model(cell, tensors), library, threads)
    steps = [bind(session, cell, tensors, arrays, slice(t, t + 1)) for t in range(sequence)]
    whole = bind(session, cell, tensors, arrays, slice(None))
    return Runs(session, steps, arrays), Runs(session, [whole], arrays)


def cell_model(cell: str, tensors: dict[str, tuple]) -> onnx.ModelProto:
    tensor = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
    names = [name for name in tensors if name != "h"]
    outputs = ["h", *(f"{name}_next" for name in STATES[cell])]
    node = helper.make_node(cell, names, outputs, domain=DOMAIN, **PLUGIN_ATTRIBUTES)
    graph = helper.make_graph(
        [node],
        "cell",
        [tensor(name, tensors[name]) for name in names],
        [tensor(name, tensors[name.removesuffix("_next")]) for name in outputs],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def bind(session: ort.InferenceSession, cell: str, tensors: dict, arrays: dict, positions: slice) -> ort.IOBinding:
    """For some positions: of a batch of one they are contiguous. States in place."""
    binding = session.io_binding()
    for name, shape in tensors.items():
        array = arrays[name][:, positions] if "S" in shape else arrays[name]
        if name == "h":
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
            continue
        binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        if name in STATES[cell]:
            binding.bind_output(f"{name}_next", "cpu", 0, np.float32, array.shape, array.ctypes.data)
    return binding


def matmul_variant(threads: int) -> Runs:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [MATRIX, MATRIX]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "matmul", info[:2], info[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = make_session(model, None, threads)
    arrays = {name: aligned((MATRIX, MATRIX)) for name in "abc"}
    for name in "ab":
        arrays[name][:] = np.random.default_rng(0).standard_normal((MATRIX, MATRIX))
    binding = session.io_binding()
    for name, array in arrays.items():
        bound = binding.bind_output if name == "c" else binding.bind_input
        bound(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    return Runs(session, [binding], arrays)


if __name__ == "__main__":
    main()
