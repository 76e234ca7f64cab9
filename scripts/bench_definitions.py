#!/usr/bin/env python3
"""Time a step of the mLSTM cell in ONNX Runtime by its two definitions, and by our kernel, in one run.

    python scripts/bench_definitions.py [--custom-ops LIB] [--threads 1]

The variants take turns; times are medians. The error is that of h against the float64 recurrence, of its spread.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table

from xlstm_export.native.locate import ONNXRUNTIME_LIBRARY, choose_library
from xlstm_export.operators.eager import mlstm_cell
from xlstm_export.operators.names import DOMAIN, MLSTM_CELL, OPSET, VERSION, Definitions
from xlstm_export.operators.schemas import sequence_functions, step_functions, use_definitions

SHAPES = [(1, 1, 4, 384), (8, 1, 4, 384), (32, 1, 4, 384), (1, 1, 4, 96), (1, 64, 4, 384), (1, 256, 4, 384)]
"""B, S, H, D: of the 165M and 125M shapes, and of `models/kjv`; steps and chunks of a prompt."""
ATTRIBUTES = {"q_scale": 1.0, "k_scale": 0.05, "gate_soft_cap": 0.0, "eps": 1e-6}


def make_inputs(batch: int, sequence: int, heads: int, width: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    vectors, gates = (batch, sequence, heads, width), (batch, sequence, heads)
    shapes = {name: vectors for name in "qkv"} | {"i": gates, "f": gates, "C": (batch, heads, width, width)}
    shapes |= {"n": (batch, heads, width), "m": (batch, heads)}
    inputs = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return inputs | ({"lengths": np.full(batch, sequence, np.int32)} if sequence > 1 else {})


def make_session(
    inputs: dict[str, np.ndarray], definitions: Definitions, library: Path | None, threads: int
) -> ort.InferenceSession:
    types = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("int32"): TensorProto.INT32}
    values = [helper.make_tensor_value_info(n, types[v.dtype], v.shape) for n, v in inputs.items()]
    names = ["h", "C_next", "n_next", "m_next"]
    outputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, inputs[k].shape) for n, k in zip(names, "vCnm", strict=True)
    ]
    node = helper.make_node(MLSTM_CELL, list(inputs), names, domain=DOMAIN, **ATTRIBUTES)
    function = (sequence_functions() if "lengths" in inputs else step_functions())[MLSTM_CELL]
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    graph = helper.make_graph([node], "cell", values, outputs)
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)
    use_definitions(model, definitions)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if library:
        options.register_custom_ops_library(str(library))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--custom-ops", help="our library; by default the one that `plugins build` made; or `none`")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    library = choose_library(ONNXRUNTIME_LIBRARY, args.custom_ops)
    table = Table("B, S, H, D", "standard, ms", "linear-attention, ms", "ratio", "our kernel, ms", "errors of h")
    for shape in SHAPES:
        inputs = make_inputs(*shape)
        sessions = [make_session(inputs, d, None, args.threads) for d in ("standard", "linear-attention")]
        if library:
            sessions.append(make_session(inputs, "standard", library, args.threads))
        tensors = [torch.from_numpy(value) for value in inputs.values()]
        exact = mlstm_cell(*(t.double() for t in tensors[:8]), **ATTRIBUTES)[0].numpy()
        errors = [np.abs(session.run(["h"], inputs)[0] - exact).max() / np.ptp(exact) for session in sessions]
        seconds = np.zeros((args.repeats, len(sessions)))
        for row in seconds:
            for index, session in enumerate(sessions):
                start = time.perf_counter()
                session.run(None, inputs)
                row[index] = time.perf_counter() - start
        times = 1e3 * np.median(seconds, 0)
        kernel = f"{times[2]:.2f}" if library else ""
        table.add_row(
            ", ".join(map(str, shape)),
            f"{times[0]:.2f}",
            f"{times[1]:.2f}",
            f"{times[0] / times[1]:.1f}",
            kernel,
            ", ".join(f"{error:.0e}" for error in errors),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
