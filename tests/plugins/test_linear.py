"""The CPU's linear layers: the kernel on each instruction set against float64, and its operator in ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from support.cell_runner import ROUNDOFF, TYPES
from support.cpu_harness import CpuKernels
from support.native import onnxruntime_operators

from xlstm_export.bundle.dtypes import DTYPES
from xlstm_export.operators.names import DOMAIN, LINEAR, LINEAR_WITH_BIAS, VERSION
from xlstm_export.operators.products import linear_function

SMALLEST = {"float32": 0.0, "float16": 2.0**-25, "bfloat16": 0.0}
"""Half of the smallest step, which is coarser in float16 than what the sums lose."""
BLOCK = 96
"""Inputs that the kernel sums by themselves."""


@pytest.fixture(scope="module")
def kernels() -> CpuKernels:
    return CpuKernels()


class Layer:
    """Random weights, and rows of x of several magnitudes."""

    def __init__(self, seed: int, rows: int, inputs: int, outputs: int, dtype: str, bias: bool = True):
        random = np.random.default_rng(seed)
        self.dtype = dtype
        x = random.standard_normal((rows, inputs)) * 10.0 ** random.integers(-3, 2, (rows, 1))
        self.x = x.astype(DTYPES[dtype])
        self.weight = random.standard_normal((outputs, inputs)).astype(DTYPES[dtype])
        self.bias = random.standard_normal(outputs).astype(DTYPES[dtype]) if bias else None

    def run(self, kernels: CpuKernels, instruction_set: str = "", threads: int = 2, rows: slice = slice(None)):
        x = np.ascontiguousarray(self.x[rows])
        given = (self.weight, self.bias, x, TYPES.index(self.dtype))
        return kernels.linear(*given, instruction_set, threads).astype(np.float32)

    def check(self, found: np.ndarray) -> None:
        """Within what additions in float32 may lose, by blocks of inputs, and the rounding of the result."""
        x, weight = self.x.astype(np.float64), self.weight.astype(np.float64)
        bias = np.zeros(len(weight)) if self.bias is None else self.bias.astype(np.float64)
        y = x @ weight.T + bias
        additions = min(x.shape[1], BLOCK) + -(-x.shape[1] // BLOCK) + 1
        bound = (np.abs(x) @ np.abs(weight.T) + np.abs(bias)) * additions * ROUNDOFF["float32"]
        bound += np.abs(y) * ROUNDOFF[self.dtype] + SMALLEST[self.dtype]
        worst = np.abs(found - y) - bound
        assert (worst <= 0).all(), worst.max()


@pytest.mark.parametrize("dtype", TYPES)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 140), st.integers(1, 450), st.integers(1, 110), st.booleans(), st.data()
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_kernel_keeps_to_float64(kernels, dtype, seed, rows, inputs, outputs, bias, data):
    instruction_set = data.draw(st.sampled_from(kernels.instruction_sets()))
    layer = Layer(seed, rows, inputs, outputs, dtype, bias)
    layer.check(layer.run(kernels, instruction_set, threads=data.draw(st.integers(1, 3))))


@pytest.mark.parametrize("dtype", TYPES)
def test_each_row_gets_what_it_gets_alone_and_every_run_gives_the_same_bits(kernels, dtype):
    for instruction_set in kernels.instruction_sets():
        layer = Layer(7, 79, 421, 130, dtype)
        together = layer.run(kernels, instruction_set, threads=3)
        np.testing.assert_array_equal(together, layer.run(kernels, instruction_set, threads=1))
        for row in range(len(layer.x)):
            alone = layer.run(kernels, instruction_set, rows=slice(row, row + 1))
            np.testing.assert_array_equal(together[row], alone[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_spoils_no_other_row(kernels, bad):
    layer = Layer(3, 13, 70, 60, "float32")
    good = layer.run(kernels)
    layer.x[5, 69] = bad
    found = layer.run(kernels)
    assert not np.isfinite(found[5]).any()
    np.testing.assert_array_equal(np.delete(found, 5, 0), np.delete(good, 5, 0))


def _model(layer: Layer, constant: bool = True) -> onnx.ModelProto:
    kind = int(ir.DataType.from_numpy(DTYPES[layer.dtype]))
    outputs, inputs = layer.weight.shape
    weights = [numpy_helper.from_array(layer.weight, "weight")]
    if layer.bias is not None:
        weights.append(numpy_helper.from_array(layer.bias, "bias"))
    names, operator = [tensor.name for tensor in weights], LINEAR if layer.bias is None else LINEAR_WITH_BIAS
    given = [helper.make_tensor_value_info("x", kind, ["N", inputs])]
    if not constant:
        given.append(helper.make_tensor_value_info("weight", kind, [outputs, inputs]))
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", *names], ["y"], "layer", domain=DOMAIN)],
        "linear",
        given,
        [helper.make_tensor_value_info("y", kind, ["N", outputs])],
        weights if constant else weights[1:],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[linear_function(operator)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def _session(model: onnx.ModelProto, library: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if library:
        options.register_custom_ops_library(str(onnxruntime_operators()))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_operator_gives_what_the_kernel_gives_and_its_definition_the_same_within_rounding(kernels, dtype, bias):
    layer = Layer(11, 9, 96, 40, dtype, bias)
    (y,) = _session(_model(layer)).run(None, {"x": layer.x})
    assert y.dtype == DTYPES[dtype]
    np.testing.assert_array_equal(y.astype(np.float32), layer.run(kernels))
    (defined,) = _session(_model(layer), library=False).run(None, {"x": layer.x})
    layer.check(defined.astype(np.float32))


def test_operator_takes_no_rows():
    layer = Layer(11, 0, 96, 40, "float32")
    (y,) = _session(_model(layer)).run(None, {"x": layer.x})
    assert y.shape == (0, 40)


def test_weights_that_are_no_constants_are_refused_in_words():
    with pytest.raises(Exception, match="LinearWithBias 'layer': weight must be a constant"):
        _session(_model(Layer(11, 3, 96, 40, "float32"), constant=False))


def test_weights_are_in_memory_once(tmp_path: Path):
    """What ONNX Runtime has mapped from the file is given back when the kernel has its copy."""
    layer = Layer(1, 1, 1024, 1024, "float32")
    model = _model(layer)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    program = """
import sys
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.register_custom_ops_library(sys.argv[2])
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
resident, here = 0, False
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0]:
        here = line.rstrip().endswith("/weights")
    elif here and line.startswith("Rss:"):
        resident += int(line.split()[1])
print(resident, float(session.run(None, {"x": np.ones((1, 1024), np.float32)})[0].sum()))
"""
    command = [sys.executable, "-c", program, tmp_path / "model.onnx", onnxruntime_operators()]
    resident, total = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(resident) < 64, "KiB of the 4096 of the weights' file"
    assert float(total) == pytest.approx(float(layer.weight.sum(dtype=np.float64) + layer.bias.sum()), rel=1e-4)
