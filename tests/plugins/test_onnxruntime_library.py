"""`libxlstm_onnxruntime.so` in ONNX Runtime: its kernels run, in place of the function bodies, and give the same."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, helper
from support.cases import mlstm_case, mlstm_parameters, slstm_case, slstm_parameters
from support.cell_runner import TYPES, Case, from_bytes, to_bytes
from support.cpu_harness import STATES
from support.native import onnxruntime_operators
from support.upstream_models import VARIANTS, random_inputs

from xlstm_export.benchmark.memory import MemoryStream
from xlstm_export.bundle import Bundle
from xlstm_export.native.build_info import build_info
from xlstm_export.operators.names import CELLS, DOMAIN, PLUGIN_ATTRIBUTES
from xlstm_export.operators.schemas import step_functions, with_stored_memory
from xlstm_export.runtime import open_session
from xlstm_export.runtime.onnxruntime import LAYERS_ENTRY

SWEEP = settings(
    max_examples=50, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
CASES = {"mlstm": mlstm_case, "slstm": slstm_case}
OPERATORS = {"mlstm": "MLSTMCell", "slstm": "SLSTMCell"}
OUTPUTS = {"mlstm": "h", "slstm": "hidden"}
ELEMENTS = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int32": TensorProto.INT32,
}


@pytest.fixture(scope="module")
def library() -> Path:
    return onnxruntime_operators()


def _model(case: Case, dynamic: bool = False, **attributes: object) -> onnx.ModelProto:
    """One node with its definition. `dynamic`: no axis of any input is known before it runs."""

    def info(name: str, dtype: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        axes = [f"{name}_{axis}" for axis in range(len(shape))] if dynamic else shape
        return helper.make_tensor_value_info(name, ELEMENTS[dtype], axes)

    inputs = [info(name, case.type_of(name), array.shape) for name, array in case.sent.items()]
    outputs = [info(f"{name}_next", dtype, shape) for name, (dtype, shape) in _outputs(case).items()]
    values = {**case.attributes, **PLUGIN_ATTRIBUTES, **attributes}
    node = helper.make_node(
        OPERATORS[case.cell], [i.name for i in inputs], [o.name for o in outputs], "cell", domain=DOMAIN, **values
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(helper.make_graph([node], "g", inputs, outputs), opset_imports=opsets, ir_version=10)
    definition = step_functions()[OPERATORS[case.cell]]
    model.functions.append(definition if case.memory == "float32" else with_stored_memory(definition))
    return model


def _outputs(case: Case) -> dict[str, tuple[str, tuple[int, ...]]]:
    if case.cell == "mlstm":
        shape = case.inputs["v"].shape
    else:
        batch, sequence, _, heads, dim = case.inputs["x"].shape
        shape = (batch, sequence, heads, dim)
    states = {name: (case.type_of(name), case.inputs[name].shape) for name in STATES[case.cell]}
    return {OUTPUTS[case.cell]: (case.dtype, shape)} | states


def _session(model: onnx.ModelProto, library: Path | None, threads: int = 1, save: Path | None = None):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    if save is not None:
        options.optimized_model_filepath = str(save)
    if library is not None:
        options.register_custom_ops_library(str(library))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(session: ort.InferenceSession, case: Case) -> list[np.ndarray]:
    """Outputs as float32, through bound buffers; bit k of `case.in_place`: the k-th state has one for in and out."""
    binding, outputs = session.io_binding(), _outputs(case)
    buffers = {name: bytearray(to_bytes(array, case.type_of(name))) for name, array in case.sent.items()}

    def address(buffer: bytearray) -> int:
        return np.frombuffer(buffer, np.uint8).ctypes.data

    for name, array in case.sent.items():
        binding.bind_input(name, "cpu", 0, ELEMENTS[case.type_of(name)], array.shape, address(buffers[name]))
    results = {}
    for bit, (name, (dtype, shape)) in enumerate(outputs.items(), start=-1):
        in_place = bit >= 0 and case.in_place >> bit & 1
        size = int(np.prod(shape)) * (4 if dtype == "float32" else 2)
        results[name] = buffers[name] if in_place else bytearray(size)
        binding.bind_output(f"{name}_next", "cpu", 0, ELEMENTS[dtype], shape, address(results[name]))
    session.run_with_iobinding(binding)
    return [from_bytes(bytes(results[name]), shape, dtype) for name, (dtype, shape) in outputs.items()]


def _small(cell: str, **options: object) -> Case:
    return CASES[cell](
        batch=2, heads=3, **({"dim_qk": 20, "dim_v": 200} if cell == "mlstm" else {"dim": 50}), **options
    )


def test_library_has_the_memory_streams_of_bench(library):
    stream = MemoryStream(1 << 20, 1 << 20, 2, library)
    before = stream._states[0].copy()
    assert stream.kind == "compiled" and min(stream.turn()[:2]) > 0
    assert np.all(stream._states[0] > before)  # 0.999 x + 1 goes to 1000


def test_library_without_cuda_says_what_it_was_built_with_and_needs_no_driver(library):
    assert build_info(library).keys() == {"xlstm", "onnxruntime_headers"}


def test_library_exports_only_its_entry_and_needs_only_libc(library):
    dynamic = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    names = [line.split()[-1] for line in dynamic.splitlines()]
    assert sorted(names) == [
        "RegisterCustomOps",
        "xlstm_onnxruntime_build_info",
        "xlstm_read_memory",
        "xlstm_update_memory",
    ]
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    names = set(re.findall(r"NEEDED.*\[(.+?)\]", needed))
    assert names <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1"} | {
        name for name in names if name.startswith("ld-linux")
    }


@pytest.mark.parametrize("recurrent", ["float32", "same"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("cell", CASES)
def test_cell_is_run_by_the_library_instead_of_inlined(cell, dtype, recurrent, library, tmp_path):
    case = _small(cell, dtype=dtype, recurrent=dtype if recurrent == "same" else recurrent)
    _session(_model(case), library, save=tmp_path / "optimised.onnx")
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    assert [(node.domain, node.op_type) for node in graph.node] == [(DOMAIN, OPERATORS[cell])]


@pytest.mark.parametrize("cell", CASES)
def test_shapes_behind_the_cell_are_known_to_onnxruntime(cell, library, tmp_path):
    model = _model(_small(cell))
    del model.graph.output[:]
    state = STATES[cell][0]
    model.graph.node.append(helper.make_node("Identity", [f"{state}_next"], ["same"]))
    model.graph.node.append(helper.make_node("Shape", [f"{OUTPUTS[cell]}_next"], ["shape"]))
    model.graph.output.append(helper.make_tensor_value_info("same", TensorProto.FLOAT, None))
    model.graph.output.append(helper.make_tensor_value_info("shape", TensorProto.INT64, None))
    _session(model, library, save=tmp_path / "optimised.onnx")
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    assert "Shape" not in [node.op_type for node in graph.node], "the shape of the output was not folded"


@SWEEP
@given(parameters=mlstm_parameters(max_size=40))
def test_mlstm_keeps_to_float64(library, parameters):
    _check(library, mlstm_case(**parameters))


@SWEEP
@given(parameters=slstm_parameters(max_size=40))
def test_slstm_keeps_to_float64(library, parameters):
    _check(library, slstm_case(**parameters))


def _check(library: Path, case: Case) -> None:
    outputs = _run(_session(_model(case, dynamic=case.schedule > 2), library), case)
    problems = [expected.check(actual) for expected, actual in zip(case.expected(), outputs, strict=True)]
    assert not any(problems), "; ".join(filter(None, problems))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_mlstm_sequence_keeps_to_float64(dtype, dynamic, library):
    case = mlstm_case(
        batch=3,
        heads=2,
        sequence=150,
        dim_qk=20,
        dim_v=70,
        dtype=dtype,
        lengths=True,
        in_place=0b111 * dynamic,
        schedule=5 * dynamic,
        seed=2,
    )
    _check(library, case)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("cell", CASES)
def test_result_does_not_depend_on_where_a_sequence_is_padded_or_cut(cell, dtype, library):
    """A row of 70 positions: alone, with NaN behind it, and as the first 64 and the other 6, where a chunk ends."""
    case = _small(cell, sequence=70, dtype=dtype)
    alone = _run(_session(_model(case), library), case)
    padded = dataclasses.replace(case, inputs=_positions(case, 0, 70, padding=30) | {"lengths": np.array([70, 70])})
    first = dataclasses.replace(case, inputs=_positions(case, 0, 64))
    head, *states = _run(_session(_model(first), library), first)
    rest = dataclasses.replace(
        case,
        inputs=_positions(case, 64, 70, padding=58)
        | dict(zip(STATES[cell], states, strict=True))
        | {"lengths": np.array([6, 6])},
    )
    tail, *last = _run(_session(_model(rest), library), rest)
    output, *others = _run(_session(_model(padded), library), padded)
    assert not output[:, 70:].any() and not tail[:, 6:].any()
    in_two = [np.concatenate([head, tail[:, :6]], 1), *last]
    for expected, one, two in zip(alone, [output[:, :70], *others], in_two, strict=True):
        np.testing.assert_array_equal(one.view(np.uint32), expected.view(np.uint32))
        np.testing.assert_array_equal(two.view(np.uint32), expected.view(np.uint32))


def _positions(case: Case, begin: int, end: int, padding: int = 0) -> dict[str, np.ndarray]:
    """The inputs of some positions, and `padding` more of NaN."""

    def cut(array: np.ndarray) -> np.ndarray:
        behind = np.full((array.shape[0], padding, *array.shape[2:]), np.nan)
        return np.concatenate([array[:, begin:end], behind], 1)

    return {name: cut(array) if name in "qkvifx" else array for name, array in case.inputs.items()}


@pytest.mark.parametrize("gates", ["usual", "wide", "extreme"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("cell", CASES)
def test_library_and_definition_agree_within_bounds(cell, dtype, gates, library):
    """Both are within their bounds of float64, so they differ by twice the bounds at most."""
    for seed in range(8):
        case = _small(cell, dtype=dtype, gates=gates, seed=seed, zero_state=seed == 0)
        bodies = _run(_session(_model(case), None), case)
        kernels = _run(_session(_model(case), library), case)
        for expected, body, kernel in zip(case.expected(), bodies, kernels, strict=True):
            assert expected.check(body) is None and expected.check(kernel) is None
            assert (np.abs(body - kernel) <= 2 * expected.bound + 1e-30).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("cell", CASES)
def test_result_depends_neither_on_the_run_nor_on_threads_or_buffers(cell, dtype, library):
    case = _small(cell, dtype=dtype, sequence=2, lengths=True, seed=5)
    session = _session(_model(case), library, threads=2)
    first = _run(session, case)
    everything = 2 ** len(STATES[cell]) - 1
    runs = [_run(session, dataclasses.replace(case, in_place=in_place)) for in_place in (0, 1, everything)]
    runs.append(_run(_session(_model(case), library, threads=1), case))
    for run in runs:
        for expected, actual in zip(first, run, strict=True):
            np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("cell", CASES)
def test_concurrent_runs_of_one_session_do_not_disturb_each_other(cell, library):
    cases = [_small(cell, seed=seed) for seed in range(4)]
    session = _session(_model(cases[0], **cases[1].attributes), library, threads=2)
    alone = [_run(session, case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda case: [_run(session, case) for _ in range(20)], cases))
    for expected, runs in zip(alone, together, strict=True):
        for run in runs:
            for first, actual in zip(expected, run, strict=True):
                np.testing.assert_array_equal(actual, first)


@pytest.mark.parametrize("cell", CASES)
def test_state_that_only_the_next_cell_reads_is_not_overwritten_too_early(cell, library):
    """ONNX Runtime lets the second of two cells write its states into the buffers of the first one's."""
    case = _small(cell)
    model = _model(case)
    node, output = model.graph.node[0], OUTPUTS[cell]
    second = onnx.NodeProto()
    second.CopyFrom(node)
    second.name = "second"
    names = list(case.sent)
    for state in STATES[cell]:
        second.input[names.index(state)] = f"{state}_next"
    for index, name in enumerate((output, *STATES[cell])):
        node.output[index] = f"{name}_next"
        second.output[index] = f"{name}_last"
    model.graph.node.append(second)
    del model.graph.output[:]
    for name, (dtype, shape) in _outputs(case).items():
        model.graph.output.append(helper.make_tensor_value_info(f"{name}_last", ELEMENTS[dtype], shape))
    actual = _session(model, library).run(None, case.sent)
    twice = dataclasses.replace(
        case,
        inputs={
            name: np.concatenate([array, array], 1) if name in "qkvifx" else array
            for name, array in case.inputs.items()
        },
    )
    for expected, value in zip(twice.expected(), actual, strict=True):
        assert expected.check(_last(expected, value)) is None


def _last(expected, value: np.ndarray) -> np.ndarray:
    """Outputs at the last position beside the expected values of the first, which the model does not give."""
    if expected.name not in OUTPUTS.values():
        return value
    return np.concatenate([expected.value[:, :1], value], 1)


def test_wrong_shape_is_named(library):
    case = _small("mlstm")
    session = _session(_model(case, dynamic=True), library)
    wrong = case.sent | {"C": case.sent["C"][..., :-1]}
    with pytest.raises(Exception, match=r"MLSTMCell 'cell': input C has shape \(2, 3, 20, 199\), .* \(2, 3, 20, 200\)"):
        session.run(None, wrong)


def test_attribute_of_the_wrong_type_or_out_of_range_is_refused(library):
    with pytest.raises(Exception, match="attribute gate_soft_cap is an integer"):
        _session(_model(_small("mlstm"), gate_soft_cap=15), library)
    with pytest.raises(Exception, match=r"attribute eps = -1.0+ is not a finite number of at least 0"):
        _session(_model(_small("mlstm"), eps=-1.0), library)


def test_layer_that_lacks_a_number_or_constant_weights_is_refused(library):
    heads = "(float[2, 40] x, float[2, 4] gates) => (float[b, s, h, d] q) { q, k, v, i, f, o = ai.xlstm.MLSTMHeads"
    projections = "float[2, 5, 5] i, float[2, 5, 5] f, float[2, 5, 5] z, float[2, 5, 5] o"
    for graph, message in (
        (
            f"{heads} <heads = 2, qk_head = 5, v_head = 0> (x, gates) }}",
            "MLSTMHeads '.*': attribute v_head must be a posi",
        ),
        (f"{heads} <heads = 2, qk_head = 5> (x, gates) }}", "attribute v_head must be a positive integer"),
        (
            f"(float[3, 10] x, {projections}) => (float[b, s, 4, h, d] y) "
            "{ y = ai.xlstm.SLSTMProjections (x, x, i, f, z, o) }",
            "SLSTMProjections '.*': its weights must be constants",
        ),
    ):
        text = f'<ir_version: 10, opset_import: ["" : 21, "{DOMAIN}" : 1]> g {graph}'
        with pytest.raises(Exception, match=message):
            _session(onnx.parser.parse_model(text), library)


@pytest.mark.parametrize("name", ["a-mixed", "b-single"])
def test_what_stands_around_the_cells_runs_in_the_library_unless_the_session_says_otherwise(
    name, export_variant, library, tmp_path
):
    bundle = export_variant(name)[2]
    ours = {n.op_type for n in Bundle.open(bundle).graph.graph.node if n.domain == DOMAIN}
    for entry, expected in (("1", ours), ("0", ours & {*CELLS})):
        options = ort.SessionOptions()
        options.add_session_config_entry(LAYERS_ENTRY, entry)
        options.register_custom_ops_library(str(library))
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        ort.InferenceSession(str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph
        assert {n.op_type for n in graph.node if n.domain == DOMAIN} == expected
    assert ours > {*CELLS} & ours


@pytest.mark.parametrize("name, dtype", [("a-mixed", "float32"), ("a-mixed", "float16"), ("c-single", "bfloat16")])
def test_bundle_gives_the_same_with_the_library_within_rounding(name, dtype, export_variant, library):
    """Same bundle, with and without the kernels; and the kernels twice, bit for bit.

    Tolerance: both runs carry their own float32 rounding through 64 steps, see tests/parity; in half precision the
    projections round what differs in its last bits to neighbours, so two roundoffs an operation. In float16 the kernels
    round where the file says, at every projection, and ONNX Runtime, which drops casts back and forth, does not: there
    the median step keeps to it, as against upstream.
    """
    model, _, bundle = export_variant(name, dtype)
    inputs = random_inputs(model, 2, 64, seed=4).numpy()
    runs = []
    for used in (None, library, library):
        with open_session(Bundle.open(bundle), batch=2, custom_ops=used) as session:
            runs.append(np.concatenate([session.step(inputs[:, t : t + 1]) for t in range(64)], 1))
    body, kernel, again = runs
    np.testing.assert_array_equal(kernel, again)
    roundoff = {"float32": 2.0**-24 * 100, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    error = np.abs(body - kernel).max((0, 2)) / np.ptp(body)
    assert (np.median(error) if dtype == "float16" else error.max()) <= 16 * roundoff, error
    assert (body != kernel).any(), "the library was not used"


@pytest.fixture
def parity(library, monkeypatch):
    """The module of the bundles' parity tests, with sessions that use the library, and fewer steps."""
    module = with_library("test_exported_bundles", library, monkeypatch)
    monkeypatch.setattr(module, "STEPS", 128)
    return module


def with_library(name, library, monkeypatch):
    """A module of parity tests, with sessions that use the library."""
    path = Path(__file__).parents[1] / "parity" / f"{name}.py"
    spec = importlib.util.spec_from_file_location("parity_with_library", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "open_session", functools.partial(open_session, custom_ops=library))
    return module


@pytest.mark.parametrize("name", VARIANTS)
def test_float32_bundle_equals_upstream_with_the_library(name, export_variant, parity):
    runs = parity.remembered_runs()
    parity.test_float32_bundle_gives_upstream_logits_and_states_after_512_steps(name, export_variant, runs)


@pytest.mark.parametrize("name, dtype", [("a-mixed", "float16"), ("c-single", "bfloat16")])
def test_half_precision_bundle_equals_upstream_with_the_library_within_rounding(name, dtype, export_variant, parity):
    check = parity.test_half_precision_bundle_stays_within_sixteen_roundoffs_of_float32_upstream
    check(name, dtype, export_variant, parity.remembered_runs())


@pytest.mark.parametrize("name", ["a-mixed", "a-all-slstm", "a-stack", "b-single", "b-wide-keys", "c-single"])
def test_chunks_equal_single_steps_with_the_library(name, export_variant, library, monkeypatch):
    prefill = with_library("test_prefill", library, monkeypatch)
    prefill.test_chunks_of_any_size_give_what_single_steps_give(name, export_variant)


@pytest.mark.parametrize("name", ["a-mixed", "b-single"])
def test_chunks_equal_single_steps_at_extreme_gates_with_the_library(name, tmp_path, library, monkeypatch):
    with_library("test_prefill", library, monkeypatch).test_gates_far_out_leave_the_chunks_right(name, tmp_path)


@pytest.mark.parametrize("name", ["a-mixed", "b-single"])
def test_row_of_a_ragged_batch_gets_what_it_gets_alone_with_the_library(name, export_variant, library, monkeypatch):
    prefill = with_library("test_prefill", library, monkeypatch)
    prefill.test_row_of_a_ragged_batch_gets_what_it_gets_alone(name, export_variant)
