#!/usr/bin/env python3
"""Prompt throughput on the CPU: prefill, step by step, upstream's PyTorch forward, and the machine's own limit.

    scripts/bench_prefill.py                          the trained model and two known sizes with random weights
    scripts/bench_prefill.py models/configs/X.yaml    others: configurations or checkpoints

All in one run, in turns, so that a disturbance hits every variant; medians. `products` is the time of the model's
matrix products alone at the sizes of one chunk: every projection, and each mLSTM cell's four products in the chunkwise
form with parts of 64 positions. They are timed in ONNX Runtime and in PyTorch; the faster is the limit. `upstream` is
the forward of the upstream package over the whole prompt, without a state, as it is and through torch.compile (which
takes minutes; --no-compile leaves it out).
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from bench_cells import build, take_turns
from onnx import TensorProto, helper, numpy_helper

from xlstm_export.bundle import Bundle
from xlstm_export.bundle.manifest import MODEL_FILE
from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.checkpoints.random_weights import random_checkpoint
from xlstm_export.exporter import ExportOptions, export_bundle
from xlstm_export.native.locate import ONNXRUNTIME_LIBRARY
from xlstm_export.operators.names import DOMAIN, LINEARS
from xlstm_export.references import build_upstream
from xlstm_export.runtime import open_session

ROOT = Path(__file__).resolve().parent.parent
MODELS = ["models/kjv", "models/configs/mlstm-165m.yaml", "models/configs/xlstm-125m-7-1.yaml"]
PART = 64  # positions of one part of the chunkwise form
STEPS = 24  # positions of the step-by-step variant in one turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[str(ROOT / m) for m in MODELS], metavar="MODEL")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # which sessions go by
    library = build() / ONNXRUNTIME_LIBRARY
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            bench(Path(model), Path(folder), library, arguments)


def bench(model: Path, folder: Path, library: Path, arguments: argparse.Namespace) -> None:
    source = random_checkpoint(model, 0) if model.suffix in (".yaml", ".json") else open_checkpoint(model)
    for mode in ("step", "both"):
        export_bundle(source, folder / mode, ExportOptions(mode=mode))
    architecture, both = source.architecture, Bundle.open(folder / "both")
    tokens = np.random.default_rng(0).integers(0, architecture.vocab_size, (1, arguments.tokens))
    sessions = {
        "prefill, our kernels": open_session(both, custom_ops=library),
        "prefill, definitions": open_session(both),
    }
    steps = open_session(Bundle.open(folder / "step"), custom_ops=library)
    variants: dict[str, Callable[[], object]] = {
        name: lambda session=session: session.prefill(tokens, arguments.chunk) for name, session in sessions.items()
    }
    variants["step by step, our kernels"] = lambda: [steps.step(tokens[:, t : t + 1]) for t in range(STEPS)]
    variants |= upstream_variants(source.family, source.config, torch.from_numpy(tokens), arguments.no_compile)
    pairs = products(folder / "both", arguments.chunk)
    variants["products, ONNX Runtime"] = products_in_onnxruntime(pairs)
    variants["products, PyTorch"] = products_in_torch(pairs)
    seconds = dict(zip(variants, take_turns(list(variants.values())), strict=True))
    seconds["step by step, our kernels"] *= arguments.tokens / STEPS
    for name in ("products, ONNX Runtime", "products, PyTorch"):
        seconds[name] *= arguments.tokens / arguments.chunk
    limit = min(s for name, s in seconds.items() if name.startswith("products"))
    sizes = f"{arguments.tokens} tokens in chunks of {arguments.chunk}, {arguments.threads} threads"
    print(f"\n{model.name}: {sizes}, float32")
    upstream = min((s for name, s in seconds.items() if name.startswith("upstream")), default=float("nan"))
    print(f"{'':28} {'ms':>9} {'tokens/s':>9} {'/ upstream':>11} {'x limit':>8}")
    for name, value in seconds.items():
        rate = arguments.tokens / value
        print(f"{name:28} {1e3 * value:9.1f} {rate:9.0f} {upstream / value:11.2f} {value / limit:8.2f}")


def upstream_variants(
    family: str, config: dict, tokens: torch.Tensor, no_compile: bool
) -> dict[str, Callable[[], object]]:
    """The forward of the upstream module, with whatever weights: they do not change its speed."""
    upstream = build_upstream(family, config)
    upstream.module.eval().requires_grad_(False)

    def forward(module: torch.nn.Module) -> Callable[[], object]:
        one = copy.copy(upstream)
        one.module = module

        def run() -> None:
            with torch.inference_mode():
                one.forward(tokens)

        return run

    variants = {"upstream, eager": forward(upstream.module)}
    if not no_compile:
        variants["upstream, torch.compile"] = forward(torch.compile(upstream.module))
    return variants


def products(bundle: Path, chunk: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The factors of the matrix products of one chunk; the head is left out, at one position it is next to nothing."""
    graph = onnx.load(bundle / MODEL_FILE, load_external_data=False).graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    states = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.input}
    pairs: list[tuple[tuple, tuple]] = []
    for node in graph.node:
        if node.op_type in LINEARS and not node.name.startswith("head"):
            out, width = shapes[node.input[1]]
            pairs.append(((chunk, width), (width, out)))
        elif node.domain == DOMAIN and node.op_type == "MLSTMCell":
            _, heads, qk, v = states[node.input[5]]
            parts = heads * -(-chunk // PART)
            pairs += [
                ((parts, PART, qk), (parts, qk, PART)),  # scores
                ((parts, PART, PART), (parts, PART, v)),  # of them, the values
                ((parts, PART, qk), (parts, qk, v)),  # queries of the old state
                ((parts, qk, PART), (parts, PART, v)),  # keys and values into it
            ]
    random = np.random.default_rng(0)
    made = {shape: random.standard_normal(shape, np.float32) for pair in pairs for shape in pair}
    return [(made[left], made[right]) for left, right in pairs]


def products_in_torch(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Callable[[], object]:
    tensors = [(torch.from_numpy(left), torch.from_numpy(right)) for left, right in pairs]
    return lambda: [left @ right for left, right in tensors]


def products_in_onnxruntime(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Callable[[], object]:
    """A graph of nothing but these products, unoptimised so that none is dropped; weights packed when it is loaded."""
    names = {array.shape: f"x{index}" for index, array in enumerate(a for pair in pairs for a in pair)}
    arrays = {names[array.shape]: array for pair in pairs for array in pair}
    nodes = [
        helper.make_node("MatMul", [names[left.shape], names[right.shape]], [f"y{index}"])
        for index, (left, right) in enumerate(pairs)
    ]
    lefts = {names[left.shape]: left for left, _ in pairs}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in lefts.items()]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items() if name not in lefts]
    outputs = [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None) for node in nodes]
    graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["y0"], lefts)


if __name__ == "__main__":
    main()
