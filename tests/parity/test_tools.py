"""Tools between a bundle and a runtime do what docs/how-to/own-loader.md says of them, in plain ONNX Runtime."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnxruntime as ort
import pytest

from xlstm_export.bundle import Bundle

MODELS = ["a-mixed", "b-single"]


def run(path, manifest):
    """The outputs of a ragged pass."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {s.input: np.zeros(s.sized(2), np.float32) for s in manifest.states}
    feeds |= {"tokens": np.array([[1, 2, 3], [4, 5, 0]]), "lengths": np.array([3, 2], np.int32)}
    return session.run(None, feeds)


def quantize_dynamic(folder, out):
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(folder / "model.onnx"), str(out))


def make_dynamic_shape_fixed(folder, out):
    command = [sys.executable, "-m", "onnxruntime.tools.make_dynamic_shape_fixed"]
    command += ["--dim_param", "batch", "--dim_value", "2", str(folder / "model.onnx"), str(out)]
    subprocess.run(command, check=True, capture_output=True)


def inline(folder, out):
    model = onnx.load(folder / "model.onnx")
    onnx.save(onnx.inliner.inline_local_functions(model), out)


def convert_version(folder, out):
    model = onnx.inliner.inline_local_functions(onnx.load(folder / "model.onnx"))
    onnx.save(onnx.version_converter.convert_version(model, 22), out)


def preprocess(folder, out):
    from onnxruntime.quantization import quant_pre_process

    inline(folder, folder / "inlined.onnx")
    quant_pre_process(str(folder / "inlined.onnx"), str(out), skip_symbolic_shape=True)


def infer_shapes(folder, out):
    onnx.shape_inference.infer_shapes_path(str(folder / "model.onnx"), str(out), strict_mode=True)


def onnxslim(folder, out):
    subprocess.run(["onnxslim", str(folder / "model.onnx"), str(out)], check=True, capture_output=True)


def sanitize(folder, out):
    command = [shutil.which("polygraphy"), "surgeon", "sanitize", str(folder / "model.onnx")]
    subprocess.run([*command, "-o", str(out), "--fold-constants", "--cleanup"], check=True, capture_output=True)


TOOLS = {  # by what the result may differ, relative to the outputs' spread: int8 weights and activations, or nothing
    quantize_dynamic: 0.5,
    make_dynamic_shape_fixed: 0,
    inline: 0,
    convert_version: 0,
    preprocess: 1e-5,
    infer_shapes: 0,
    onnxslim: 1e-5,
    sanitize: 1e-5,
}
NEEDS = {onnxslim: "onnxslim", sanitize: "onnx_graphsurgeon"}


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_bundle_runs_after_the_tool(name, tool, export_variant, tmp_path):
    if tool in NEEDS and importlib.util.find_spec(NEEDS[tool]) is None:
        pytest.skip(f"{NEEDS[tool]} is not installed")
    folder = tmp_path / "bundle"
    shutil.copytree(export_variant(name)[2], folder)
    manifest = Bundle.open(folder).manifest
    tool(folder, folder / "out.onnx")
    for got, expected in zip(run(folder / "out.onnx", manifest), run(folder / "model.onnx", manifest), strict=True):
        assert np.abs(got - expected).max() <= TOOLS[tool] * np.ptp(expected)
