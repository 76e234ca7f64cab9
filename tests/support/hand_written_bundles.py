"""Small networks as bundles, put together by hand: what any exporter could write that follows FORMAT.md.

python -m support.hand_written_bundles FOLDER      # writes them all
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from xlstm_export.bundle import Bundle
from xlstm_export.checksum import sha256
from xlstm_export.operators.names import DOMAIN, OPSET, PLUGIN_ATTRIBUTES, SLSTM_CELL, VERSION
from xlstm_export.operators.schemas import sequence_functions, step_functions

TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32}
STATES = ("y", "c", "n", "m")
SPEAKERS, CHOICES, WIDTH = 7, 5, 4
Spec = tuple[str, str, list[object]]
"""Name, dtype, shape."""


class Graph:
    """A graph in the making: `graph("MatMul", "x", weight)` adds a node and returns its output's name."""

    def __init__(self, seed: int):
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(seed)

    def __call__(self, kind: str, *inputs: str, names: Sequence[str] = (), **attributes: object) -> str:
        names = list(names) or [f"v{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0]

    def constant(self, value: object, dtype: str = "int64") -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def random(self, *shape: int) -> str:
        return self.constant(self._random.standard_normal(shape) * 0.5, "float32")

    def cast(self, value: str, dtype: str) -> str:
        return self("Cast", value, to=TYPES[dtype])

    def reshape(self, value: str, *shape: int, name: str = "") -> str:
        return self("Reshape", value, self.constant(shape), names=[name] if name else [])

    def cell(self, gates: str, suffix: str, lengths: str = "") -> str:
        """An sLSTM cell of one head over gates (B, S, 16), on states whose names end in `suffix`; hidden (B, S, 4)."""
        before = [name + suffix for name in STATES]
        hidden = self(
            SLSTM_CELL,
            self.reshape(gates, 0, 0, 4, 1, WIDTH),
            self.random(1, 4, WIDTH, WIDTH),
            self.random(4, 1, WIDTH),
            *before,
            *([lengths] if lengths else []),
            names=["hidden" + suffix, *(f"{name}.next" for name in before)],
            domain=DOMAIN,
            forget_clamp=0.0,
            **PLUGIN_ATTRIBUTES,
        )
        return self.reshape(hidden, 0, 0, WIDTH)


def write_network(
    folder: Path, graph: Graph, mode: str, inputs: list[Spec], outputs: list[Spec], states: Mapping[str, list[object]]
) -> Path:
    """`states`: shapes by name. Those of rank 3 are the cells', which a kernel may update in place."""
    sequence = mode in ("prefill", "both")
    lengths: list[Spec] = [("lengths", "int32", ["batch"])] if sequence else []

    def infos(specs: list[Spec], suffix: str) -> list[onnx.ValueInfoProto]:
        every = [*specs, *((name + suffix, "float32", shape) for name, shape in states.items())]
        return [helper.make_tensor_value_info(name, TYPES[dtype], shape) for name, dtype, shape in every]

    def tensor(name: str, dtype: str, shape: list[object]) -> dict[str, object]:
        return {"name": name, "dtype": dtype, "shape": shape}

    model = helper.make_model(
        helper.make_graph(
            graph.nodes, "network", infos([*inputs, *lengths], ""), infos(outputs, ".next"), graph.weights
        ),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        functions=[(sequence_functions() if sequence else step_functions())[SLSTM_CELL]],
        ir_version=10,
    )
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    manifest = {
        "format": "xlstm-bundle",
        "format_version": 3,
        "family": "network",
        "dtype": "float32",
        "mode": mode,
        "batch": None,
        "inputs": [tensor(*spec) for spec in inputs],
        "lengths": tensor(*lengths[0]) if sequence else None,
        "outputs": [tensor(*spec) for spec in outputs],
        "states": [
            {"input": name, "output": f"{name}.next", "in_place": len(shape) == 3, "dtype": "float32", "shape": shape}
            for name, shape in states.items()
        ],
        "tokenizer": None,
        "vocab_size": None,
        "architecture": {"name": folder.name},
        "source": {"path": folder.name, "sha256": sha256(folder / "model.onnx")},
        "weight_files": [],
        "producer": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    Bundle.open(folder)  # it is a good one
    return folder


def cell_states(*suffixes: str) -> dict[str, list[object]]:
    return {name + suffix: ["batch", 1, WIDTH] for suffix in suffixes for name in STATES}


def write_sequence_network(folder: Path) -> Path:
    """Mode `both`: two cells and a state of another kind, time in two places, integers, and an `index` into 5 rows that
    is used after the cells have run, so that another number fails there.
    """
    g = Graph(0)
    axis = g.constant([1])
    both = g("Concat", "x", g("Transpose", "side", perm=[0, 2, 1]), axis=2)
    speaker = g("Unsqueeze", g("Gather", g.random(SPEAKERS, 4 * WIDTH), "speaker"), axis)
    hidden = g.cell(g("Add", g("MatMul", both, g.random(5, 4 * WIDTH)), speaker), "", "lengths")
    hidden = g.cell(g("MatMul", hidden, g.random(WIDTH, 4 * WIDTH)), "2", "lengths")
    g("Identity", hidden, names=["out"])
    energy = g.reshape("y2.next", 0, WIDTH, name="energy")
    after = g("ReduceSum", g("Mul", energy, g.constant(0, "float32")), axis, keepdims=0)
    g("Gather", g.random(CHOICES, 2), g("Add", g.cast("index", "int64"), g.cast(after, "int64")), names=["picked"])
    there = g("Unsqueeze", g("Greater", "lengths", g.constant(0, "int32")), axis)
    moved = g("Add", g("Unsqueeze", g.cast("speaker", "float32"), axis), g("Mul", "window", g.constant(0.5, "float32")))
    g("Where", there, moved, "window", names=["window.next"])
    inputs: list[Spec] = [
        ("x", "float32", ["batch", "sequence", 3]),
        ("side", "float32", ["batch", 2, "sequence"]),
        ("speaker", "int64", ["batch"]),
        ("index", "int32", ["batch"]),
    ]
    outputs: list[Spec] = [
        ("out", "float32", ["batch", "sequence", WIDTH]),
        ("energy", "float32", ["batch", WIDTH]),
        ("picked", "float32", ["batch", 2]),
    ]
    return write_network(folder, g, "both", inputs, outputs, cell_states("", "2") | {"window": ["batch", 2]})


def write_step_network(folder: Path) -> Path:
    """Mode `step`, a control loop's: observations (B, 2), to forces (B, 1)."""
    g = Graph(1)
    gates = g("Unsqueeze", g("MatMul", "observation", g.random(2, 4 * WIDTH)), g.constant([1]))
    hidden = g("Squeeze", g.cell(gates, ""), g.constant([1]))
    g("Tanh", g("MatMul", hidden, g.random(WIDTH, 1)), names=["force"])
    inputs: list[Spec] = [("observation", "float32", ["batch", 2])]
    return write_network(folder, g, "step", inputs, [("force", "float32", ["batch", 1])], cell_states(""))


def write_regulator(folder: Path) -> Path:
    """Mode `step`: keeps the pole of `models/examples/pole` up, by the differences from the last observation.

    The gains [N] are for the cart's position and the pole's angle and, after them, for what they changed in 1 ms.
    """
    g = Graph(4)
    changed = g("Sub", "observation", "last")
    both = g("Concat", "observation", changed, axis=1)
    force = g("MatMul", both, g.constant([[4.4], [38.6], [5200.0], [5200.0]], "float32"))
    g("Mul", g("Tanh", g("Div", force, g.constant(10, "float32"))), g.constant(10, "float32"), names=["force"])
    g("Identity", "observation", names=["last.next"])
    inputs: list[Spec] = [("observation", "float32", ["batch", 2])]
    return write_network(folder, g, "step", inputs, [("force", "float32", ["batch", 1])], {"last": ["batch", 2]})


def write_window_network(folder: Path) -> Path:
    """Mode `window`: a convolution over time, which comes last; one output's length is known after the run only."""
    g = Graph(2)
    g("Conv", "signal", g.random(4, 3, 3), strides=[2], names=["map"])
    g("MatMul", g("ReduceMean", "map", g.constant([2]), keepdims=0), g.random(4, 5), names=["classes"])
    inputs: list[Spec] = [("signal", "float32", ["batch", 3, "sequence"])]
    outputs: list[Spec] = [("classes", "float32", ["batch", 5]), ("map", "float32", ["batch", 4, None])]
    return write_network(folder, g, "window", inputs, outputs, {})


def write_fixed_network(folder: Path) -> Path:
    """Mode `window` without any open dimension but the batch."""
    g = Graph(3)
    g("Tanh", g("MatMul", "values", g.random(6, 2)), names=["two"])
    inputs: list[Spec] = [("values", "float32", ["batch", 6])]
    return write_network(folder, g, "window", inputs, [("two", "float32", ["batch", 2])], {})


WRITERS = {
    "sequence": write_sequence_network,
    "step": write_step_network,
    "window": write_window_network,
    "fixed": write_fixed_network,
    "regulator": write_regulator,
}


class Reference:
    """The same graph by plain calls of ONNX Runtime, states from call to call, each in memory of its own."""

    def __init__(self, bundle: Path, batch: int, custom_ops: Path | None = None):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        if custom_ops is not None:
            options.register_custom_ops_library(str(custom_ops))
        self.manifest, self.batch = Bundle.open(bundle).manifest, batch
        self._session = onnxruntime.InferenceSession(
            str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.states = {s.input: np.zeros(s.sized(batch), np.float32) for s in self.manifest.states}

    def run(self, inputs: Mapping[str, np.ndarray], lengths: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """Outputs by name; `lengths` as in `Session.feed`."""
        fed = {**inputs, **self.states}
        if self.manifest.lengths is not None:
            positions = max(
                inputs[spec.name].shape[spec.time_axis] for spec in self.manifest.inputs if spec.time_axis is not None
            )
            fed["lengths"] = np.array([positions] * self.batch if lengths is None else lengths, np.int32)
        names = [output.name for output in self._session.get_outputs()]
        outputs = dict(zip(names, self._session.run(None, fed), strict=True))
        for state in self.manifest.states:
            self.states[state.input] = outputs[state.output]
        return {spec.name: outputs[spec.name] for spec in self.manifest.outputs}


def random_inputs(bundle: Path, batch: int, positions: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """For a network of this module."""
    inputs = {}
    for spec in Bundle.open(bundle).manifest.inputs:
        shape = spec.sized(batch, positions)
        most = {"speaker": SPEAKERS, "index": CHOICES}.get(spec.name)
        inputs[spec.name] = (random.standard_normal(shape) if most is None else random.integers(0, most, shape)).astype(
            spec.dtype
        )
    return inputs


if __name__ == "__main__":
    for name, write in WRITERS.items():
        write(Path(sys.argv[1]) / name)
