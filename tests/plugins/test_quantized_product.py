"""The CPU's product with quantised weights: its kernel against sums in float64, and its operator in ONNX Runtime.

The reference rounds the inputs as the kernel says that it does: a block of x becomes integers at the scale that maps
its largest magnitude to 127 beside 4-bit codes, and to 127 * 256 beside 8-bit ones. What is left is float rounding: one
in the input's scale, one where two digits are put together, one in each product of scales, one in each addition of a
block.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from support.cell_runner import ROUNDOFF, TYPES
from support.cpu_harness import CpuKernels
from support.native import build_without_cuda, onnxruntime_operators

from xlstm_export.bundle.dtypes import DTYPES
from xlstm_export.operators.names import DOMAIN, QUANTIZED_MATMUL, VERSION
from xlstm_export.operators.products import product_function
from xlstm_export.quantization.formats import INT4, INT8, packed

EPSILON = 2.0**-24
SHAPES = [  # inputs, outputs, block
    (64, 16, 32),
    (70, 33, 32),
    (40, 5, 64),
    (300, 48, 64),
    (256, 17, 128),
    (24, 7, 8),
    (768, 130, 32),
    (768, 1, 768),
]


class _Matrix(ctypes.Structure):
    """xlstm::cpu::QuantizedMatrix."""

    _fields_ = [
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("block", ctypes.c_int64),
        ("bits", ctypes.c_int32),
        ("scale_type", ctypes.c_int32),
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
    ]


@pytest.fixture(scope="module")
def kernels() -> CpuKernels:
    kernels = CpuKernels()
    if not kernels.has_quantized_product:
        pytest.skip("this processor has no AVX-512 with VNNI: ONNX Runtime's own product runs")
    return kernels


class Case:
    """A random matrix and rows of x, some of them zero, tiny or huge."""

    def __init__(self, seed: int, inputs: int, outputs: int, block: int, bits: int, scales: str, rows: int, dtype: str):
        random = np.random.default_rng(seed)
        self.block, self.bits, self.dtype = block, bits, dtype
        self.format = INT4 if bits == 4 else INT8
        self.codes = random.integers(self.format.low, self.format.high + 1, (inputs, outputs))
        blocks = -(-inputs // block)
        self.scales = (random.random((blocks, outputs)) * 0.1).astype(DTYPES[scales])
        x = random.standard_normal((rows, inputs)) * 10.0 ** random.integers(-3, 3, (rows, 1))
        x[random.integers(rows)] = 0
        self.x = x.astype(DTYPES[dtype])

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """y, and how far the kernel may be from it."""
        inputs, outputs = self.codes.shape
        blocks = len(self.scales)
        missing = blocks * self.block - inputs
        x = np.pad(self.x.astype(np.float32), ((0, 0), (0, missing))).reshape(-1, blocks, self.block)
        steps = np.abs(x).max(-1) / np.float32(127 * 256 if self.bits == 8 else 127)
        inverse = np.where(steps > 0, 1 / np.where(steps > 0, steps, 1), 0).astype(np.float32)
        rounded = np.rint(x * inverse[..., None])
        codes = np.pad(self.codes, ((0, missing), (0, 0))).reshape(blocks, self.block, outputs).astype(np.float64)
        sums = np.einsum("rbk,bkn->rbn", rounded.astype(np.float64), codes)  # integers, exact
        terms = sums * steps.astype(np.float64)[..., None] * self.scales.astype(np.float64)
        y = terms.sum(1)
        bound = (np.abs(terms).sum(1)) * (blocks + 5) * EPSILON + np.abs(y) * ROUNDOFF[self.dtype]
        return y, bound + 1e-7  # float16 has no smaller steps than that


def multiply(kernels: CpuKernels, case: Case, threads: int = 2, rows: slice = slice(None)) -> np.ndarray:
    x = np.ascontiguousarray(case.x[rows])
    codes = np.ascontiguousarray(packed(case.codes, case.format))
    scale_type = [name for name, dtype in DTYPES.items() if dtype == case.scales.dtype][0]
    matrix = _Matrix(
        *case.codes.shape,
        case.block,
        case.bits,
        TYPES.index(scale_type),
        codes.ctypes.data,
        case.scales.ctypes.data,
    )
    y = np.full((len(x) + 1, case.codes.shape[1]), np.nan, x.dtype)
    kernels.multiply(matrix, TYPES.index(case.dtype), x, y[:-1], threads)
    assert np.isnan(y[-1].astype(np.float32)).all(), "written beyond the last row"
    return y[:-1].astype(np.float32)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_sums_the_rounded_inputs_exactly(kernels, shape, bits):
    for seed, rows in enumerate((1, 2, 3, 8, 15)):
        for dtype in TYPES:
            case = Case(seed, *shape, bits, TYPES[seed % 3], rows, dtype)
            found = multiply(kernels, case)
            expected, bound = case.expected()
            assert (np.abs(found - expected) <= bound).all(), (rows, dtype, np.abs(found - expected).max())


@pytest.mark.parametrize("bits", [4, 8])
def test_each_row_gets_what_it_gets_alone_and_every_run_gives_the_same_bits(kernels, bits):
    case = Case(7, 96, 50, 32, bits, "float16", 23, "float32")
    together = multiply(kernels, case, threads=3)
    np.testing.assert_array_equal(together, multiply(kernels, case, threads=1))
    for row in range(len(case.x)):
        np.testing.assert_array_equal(together[row], multiply(kernels, case, rows=slice(row, row + 1))[0])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_gives_none_and_spoils_no_other_row(kernels, bad, dtype):
    case = Case(3, 70, 20, 32, 8, "float32", 5, dtype)
    good = multiply(kernels, case)
    case.x[2, 65] = bad
    found = multiply(kernels, case)
    assert np.isnan(found[2]).all()
    np.testing.assert_array_equal(np.delete(found, 2, 0), np.delete(good, 2, 0))


def test_magnitudes_at_the_ends_of_the_range_neither_vanish_nor_overflow(kernels):
    case = Case(5, 64, 16, 32, 8, "float32", 3, "float32")
    case.scales[:] = 1
    for magnitude in (2.0**-110, 2.0**110):
        case.x[:] = np.float32(magnitude)
        expected = np.tile(case.codes.sum(0) * magnitude, (3, 1))
        np.testing.assert_allclose(multiply(kernels, case), expected, rtol=1e-5, atol=0)
    case.x[:] = np.float32(2.0**-149)  # its 127th part is nothing
    assert not multiply(kernels, case).any()


def test_no_access_is_beyond_a_buffer(kernels):
    """Under the address sanitizer."""
    program = build_without_cuda("test_quantized_product") / "bin" / "test_quantized_product"
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def _model(case: Case, dtype: str, constant: bool = True) -> bytes:
    kind = int(ir.DataType.from_numpy(DTYPES[dtype]))
    rows, outputs = "B", case.codes.shape[1]
    code_kind = onnx.TensorProto.INT4 if case.bits == 4 else onnx.TensorProto.INT8
    codes = helper.make_tensor(
        "codes", code_kind, case.codes.shape, packed(case.codes, case.format).tobytes(), raw=True
    )
    scales = numpy_helper.from_array(case.scales, "scales")
    inputs = [helper.make_tensor_value_info("x", kind, [rows, 1, case.codes.shape[0]])]
    if not constant:
        inputs.append(helper.make_tensor_value_info("scales", scales.data_type, case.scales.shape))
    attributes = {"block_size": case.block, "to": kind}
    graph = helper.make_graph(
        [helper.make_node(QUANTIZED_MATMUL, ["x", "codes", "scales"], ["y"], "product", domain=DOMAIN, **attributes)],
        "product",
        inputs,
        [helper.make_tensor_value_info("y", kind, [rows, 1, outputs])],
        [codes, scales] if constant else [codes],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[product_function()], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _run(model: bytes, x: np.ndarray, folder: Path, library: bool, level: str | None) -> tuple[np.ndarray, Counter]:
    """y, and the kinds of nodes that ran."""
    options = ort.SessionOptions()
    options.log_severity_level, options.enable_profiling = 3, True
    options.profile_file_prefix = str(folder / "profile")
    if level is not None:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", level)
    if library:
        options.register_custom_ops_library(str(onnxruntime_operators()))
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    events = json.loads(Path(session.end_profiling()).read_text())
    return y, Counter(e["args"]["op_name"] for e in events if e.get("name", "").endswith("_kernel_time"))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_operator_runs_the_kernel_where_inputs_may_be_rounded_and_the_definition_where_not(
    kernels, dtype, bits, tmp_path
):
    case = Case(11, 96, 40, 32, bits, "float16", 6, dtype)
    x, model = case.x[:, None], _model(case, dtype)
    for level in (None, "4"):
        y, nodes = _run(model, x, tmp_path, True, level)
        assert nodes[QUANTIZED_MATMUL] == 1 and y.shape == (6, 1, 40) and y.dtype == DTYPES[dtype]
        np.testing.assert_array_equal(y[:, 0].astype(np.float32), multiply(kernels, case))
    exact, nodes = _run(model, x, tmp_path, True, "1")
    assert not nodes[QUANTIZED_MATMUL]
    plain, nodes = _run(model, x, tmp_path, False, "1")
    np.testing.assert_array_equal(exact, plain)
    weights = case.codes * np.repeat(case.scales.astype(np.float64), 32, 0)
    expected = case.x.astype(np.float64) @ weights
    # A sum of 96 products in any order, and the weights in the type of x.
    bound = (np.abs(case.x.astype(np.float64)) @ np.abs(weights)) * 100 * ROUNDOFF[dtype] + 1e-7
    assert (np.abs(plain[:, 0] - expected) <= bound).all()


def test_scales_that_are_no_constants_are_refused_in_words(kernels, tmp_path):
    case = Case(11, 96, 40, 32, 8, "float16", 6, "float32")
    with pytest.raises(Exception, match="QuantizedMatMul 'product': scales must be constants"):
        _run(_model(case, "float32", constant=False), case.x[:, None], tmp_path, True, None)
