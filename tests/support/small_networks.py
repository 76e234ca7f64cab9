"""Small bundles of networks of a user's own, written node by node: several inputs and outputs, in every mode.

What they compute is a few lines of NumPy, so that a test of a runtime can say what must come out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from xlstm_export.bundle.manifest import (
    FILE_NAME,
    MODEL_FILE,
    Dtype,
    Manifest,
    Mode,
    Source,
    StateTensor,
    TensorSpec,
)

WIDTH = 3
_TYPES = {"float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64, "int32": onnx.TensorProto.INT32}


def write_bundle(
    folder: Path,
    mode: Mode,
    inputs: list[TensorSpec],
    outputs: list[TensorSpec],
    states: list[StateTensor],
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    *,
    batch: int | None = None,
    architecture: dict[str, Any] | None = None,
    dtype: Dtype = "float32",
) -> Path:
    """A bundle of a graph and the manifest that describes it. `constants` become initializers of the graph."""
    first = "batch" if batch is None else batch
    lengths = None if mode in ("step", "window") else TensorSpec("lengths", "int32", (first,))
    manifest = Manifest(
        family="network",
        dtype=dtype,
        mode=mode,
        batch=batch,
        inputs=tuple(inputs),
        lengths=lengths,
        outputs=tuple(outputs),
        states=tuple(states),
        tokenizer=None,
        vocab_size=None,
        architecture=architecture or {"carried": None},
        source=Source("network.py", None),
        weight_files=(),
        producer={"test": "0"},
    )
    taken = [*inputs, *([lengths] if lengths else []), *(s.spec for s in states)]
    given = [*outputs, *(TensorSpec(s.output, s.dtype, s.shape) for s in states)]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(t.name, _TYPES[t.dtype], list(t.shape)) for t in taken],
        [helper.make_tensor_value_info(t.name, _TYPES[t.dtype], list(t.shape)) for t in given],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    folder.mkdir(parents=True)
    onnx.save(model, folder / MODEL_FILE)
    (folder / FILE_NAME).write_text(manifest.to_json())
    return folder


def summing_network(folder: Path, batch: int | None = None) -> Path:
    """Mode `both`: running sums of x (B, S, 3) float32, weighted with w (B, 2, S) int64 of which the first row counts.

    Outputs `sums` (B, S, 3), the running weighted sums; `last` (B, 3), that of each row's last position; `scaled`
    (B, 3, S), the sums times `scale` (B, 1), an input without positions. The state `net.total` (B, 3) is the sum so
    far; positions beyond a row's length are not added.
    """
    first = "batch" if batch is None else batch
    nodes = [
        helper.make_node("Cast", ["w"], ["w_float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Gather", ["w_float", "zero_index"], ["w_first"], axis=1),  # (B, S)
        helper.make_node("Unsqueeze", ["w_first", "two"], ["w_wide"]),  # (B, S, 1)
        helper.make_node("Mul", ["x", "w_wide"], ["weighted_all"]),
        helper.make_node("Shape", ["x"], ["positions"], start=1, end=2),
        helper.make_node("Squeeze", ["positions"], ["positions_scalar"]),
        helper.make_node("Range", ["zero_index", "positions_scalar", "one_index"], ["index"]),
        helper.make_node("Unsqueeze", ["lengths", "one"], ["lengths_wide"]),
        helper.make_node("Cast", ["lengths_wide"], ["lengths_long"], to=onnx.TensorProto.INT64),
        helper.make_node("Less", ["index", "lengths_long"], ["there"]),  # (B, S)
        helper.make_node("Unsqueeze", ["there", "two"], ["there_wide"]),
        helper.make_node("Where", ["there_wide", "weighted_all", "zero"], ["weighted"]),
        helper.make_node("CumSum", ["weighted", "one_scalar"], ["running"]),
        helper.make_node("Unsqueeze", ["net.total", "one"], ["total_wide"]),
        helper.make_node("Add", ["running", "total_wide"], ["sums"]),
        helper.make_node("ReduceSum", ["weighted", "one"], ["added"], keepdims=0),
        helper.make_node("Add", ["net.total", "added"], ["net.total.next"]),
        helper.make_node("Identity", ["net.total.next"], ["last"]),
        helper.make_node("Transpose", ["sums"], ["sums_turned"], perm=[0, 2, 1]),
        helper.make_node("Unsqueeze", ["scale", "two"], ["scale_wide"]),
        helper.make_node("Mul", ["sums_turned", "scale_wide"], ["scaled"]),
    ]
    return write_bundle(
        folder,
        "both",
        [
            TensorSpec("x", "float32", (first, "sequence", WIDTH)),
            TensorSpec("w", "int64", (first, 2, "sequence")),
            TensorSpec("scale", "float32", (first, 1)),
        ],
        [
            TensorSpec("sums", "float32", (first, "sequence", WIDTH)),
            TensorSpec("last", "float32", (first, WIDTH)),
            TensorSpec("scaled", "float32", (first, WIDTH, "sequence")),
        ],
        [StateTensor("net.total", "net.total.next", "float32", (first, WIDTH))],
        nodes,
        {
            "zero_index": np.array(0),
            "one_index": np.array(1),
            "one_scalar": np.array(1),
            "zero": np.array(0, np.float32),
            "one": np.array([1]),
            "two": np.array([2]),
        },
        batch=batch,
    )


def policy_network(folder: Path, batch: int | None = None) -> Path:
    """Mode `step` without time: observation (B, 3) → action (B, 2) and value (B, 1), called output_0 and output_1.

    The state `net.memory` (B, 3) becomes 0.5 memory + observation; action is its first two elements, value their sum.
    """
    first = "batch" if batch is None else batch
    nodes = [
        helper.make_node("Mul", ["net.memory", "half"], ["kept"]),
        helper.make_node("Add", ["kept", "observation"], ["net.memory.next"]),
        helper.make_node("Slice", ["net.memory.next", "from", "to", "axis"], ["output_0"]),
        helper.make_node("ReduceSum", ["net.memory.next", "axis"], ["output_1"], keepdims=1),
    ]
    return write_bundle(
        folder,
        "step",
        [TensorSpec("observation", "float32", (first, WIDTH))],
        [TensorSpec("output_0", "float32", (first, 2)), TensorSpec("output_1", "float32", (first, 1))],
        [StateTensor("net.memory", "net.memory.next", "float32", (first, WIDTH))],
        nodes,
        {"half": np.array(0.5, np.float32), "from": np.array([0]), "to": np.array([2]), "axis": np.array([1])},
        batch=batch,
        architecture={"carried": {"argument": "memory", "output": 2}},
    )


def window_network(folder: Path, batch: int | None = None, length: int | None = None) -> Path:
    """Mode `window`: x (B, S, 3) and mask (B, S) int32 → `mean` (B, 3) over what the mask keeps, and `pairs`.

    `pairs` (B, S // 2, 3) are the means of two positions each: its size is told by the run.
    """
    first = "batch" if batch is None else batch
    positions = "sequence" if length is None else length
    nodes = [
        helper.make_node("Cast", ["mask"], ["mask_float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask_float", "two"], ["mask_wide"]),
        helper.make_node("Mul", ["x", "mask_wide"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask_float", "one"], ["count"], keepdims=1),
        helper.make_node("Max", ["count", "one_float"], ["count_safe"]),
        helper.make_node("Div", ["sum", "count_safe"], ["mean"]),
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("AveragePool", ["turned"], ["pooled"], kernel_shape=[2], strides=[2]),
        helper.make_node("Transpose", ["pooled"], ["pairs"], perm=[0, 2, 1]),
    ]
    return write_bundle(
        folder,
        "window",
        [TensorSpec("x", "float32", (first, positions, WIDTH)), TensorSpec("mask", "int32", (first, positions))],
        [TensorSpec("mean", "float32", (first, WIDTH)), TensorSpec("pairs", "float32", (first, None, WIDTH))],
        [],
        nodes,
        {"one": np.array([1]), "two": np.array([2]), "one_float": np.array(1, np.float32)},
        batch=batch,
    )
