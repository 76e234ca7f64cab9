"""The TensorRT sessions' handling of device memory, without a GPU.

The driver is a small C library on host memory and the engine is ONNX Runtime on the same bundle, reading and writing
at the addresses that the session binds. It proves the binding, the turns of the two state sets, resets and the ctypes
signatures; it says nothing of TensorRT itself.
"""

import ctypes
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from support.row_walk import walk_over_rows
from support.small_networks import policy_network, summing_network, window_network

from xlstm_export.bundle import Bundle
from xlstm_export.engines.targets import PROFILES
from xlstm_export.errors import UserError
from xlstm_export.nvidia.driver import CudaDriver, DeviceMemory, list_gpus
from xlstm_export.runtime import open_session
from xlstm_export.runtime.tensorrt import DeviceSession

MAX_CHUNK = 5
COMPILER = shutil.which("cc") or shutil.which("gcc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler for the stand-in of the CUDA driver")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    out = tmp_path_factory.mktemp("cuda") / "libfakecuda.so"
    source = Path(__file__).with_name("fake_cuda.c")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", source, "-o", out], check=True)
    return str(out)


class OnnxRuntimeContext:
    """`IExecutionContext`'s methods; tensors live at the addresses that were set, shapes are held to the profile."""

    def __init__(self, bundle, mode="both"):
        self.profiles = PROFILES[mode]
        self.session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
        self.types = {t.name: t.type for t in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.inputs = [t.name for t in self.session.get_inputs()]
        self.shapes, self.addresses, self.profile = {}, {}, 0

    def set_optimization_profile_async(self, profile, stream):
        self.profile = profile
        return bool(stream) and profile < len(self.profiles)

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        most = 1 if self.profiles[self.profile] == "decode" else MAX_CHUNK
        in_range = name not in ("tokens", "inputs", "x") or 1 <= shape[1] <= most
        return name in self.inputs and min(shape) >= 1 and in_range

    def get_tensor_shape(self, name):
        """As TensorRT infers it from the shapes of the inputs; here from a run over zeros."""
        feeds = {i: np.zeros(self.shapes[i], self.dtype(i)) for i in self.inputs}
        return self.session.run([name], feeds)[0].shape

    def get_max_output_size(self, name):
        assert max(self.shapes[i][1] for i in self.inputs if len(self.shapes[i]) > 1) == MAX_CHUNK
        return 4 * int(np.prod(self.get_tensor_shape(name)))

    def set_tensor_address(self, name, address):
        assert address % 256 == 0
        self.addresses[name] = address
        return name in self.types

    def execute_async_v3(self, stream):
        assert stream
        feeds = {name: self.at(name, self.shapes[name]).copy() for name in self.inputs}
        names = [t.name for t in self.session.get_outputs()]
        inputs_at = {self.addresses[name] for name in self.inputs}
        for name, value in zip(names, self.session.run(names, feeds), strict=True):
            assert self.addresses[name] not in inputs_at, "a state must not be written where it is read"
            self.at(name, value.shape)[...] = value
        return True

    def dtype(self, name):
        return np.dtype({"tensor(int64)": "int64", "tensor(int32)": "int32"}.get(self.types[name], "float32"))

    def at(self, name, shape):
        dtype = self.dtype(name)
        size = int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer((ctypes.c_char * size).from_address(self.addresses[name]), dtype).reshape(shape)


@pytest.fixture(params=["a-mixed", "a-stack"])
def bundle(request, export_variant):
    return export_variant(request.param)[2]


def open_device(bundle, batch, driver, mode="both"):
    context = lambda: OnnxRuntimeContext(bundle, mode)  # noqa: E731
    return DeviceSession(
        Bundle.open(bundle), batch, context, driver, PROFILES[mode], None if mode == "step" else MAX_CHUNK
    )


def open_onnx(bundle, batch):
    return open_session(Bundle.open(bundle), batch=batch)


def prompts(manifest, lengths):
    steps = draw(manifest, len(lengths), max(lengths))[:, :, 0]
    return [steps[:length, row] for row, length in enumerate(lengths)]


def draw(manifest, batch, steps):
    random = np.random.default_rng(0)
    if manifest.vocab_size:
        return random.integers(0, manifest.vocab_size, (steps, batch, 1))
    return random.standard_normal((steps, batch, 1, manifest.input.shape[-1]), np.float32)


def test_steps_resets_and_states_equal_the_onnx_runtime_session(bundle, library):
    manifest, batch = Bundle.open(bundle).manifest, 3
    inputs = draw(manifest, batch, 12)
    driver = CudaDriver(library)
    with open_device(bundle, batch, driver) as session, open_onnx(bundle, batch) as reference:
        for t in range(5):
            np.testing.assert_allclose(session.step(inputs[t]), reference.step(inputs[t]), rtol=1e-5, atol=1e-5)
        for s in (session, reference):
            s.reset(1)
        for t in range(5, 8):  # an odd and an even number of turns after the reset
            np.testing.assert_allclose(session.step(inputs[t]), reference.step(inputs[t]), rtol=1e-5, atol=1e-5)
        states, expected = session.read_states(), reference.read_states()
        assert list(states) == list(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(states[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
        before = session.step(inputs[8])
        session.reset()
        assert all((value == 0).all() for value in session.read_states().values())
        session.write_states(states)
        np.testing.assert_array_equal(session.step(inputs[8]), before)


@pytest.mark.parametrize("mode", ["prefill", "both"])
def test_prompts_in_chunks_of_the_engine_equal_the_onnx_runtime_session(mode, bundle, library):
    manifest, lengths = Bundle.open(bundle).manifest, [13, 1, 0, 5]
    texts, inputs = prompts(manifest, lengths), draw(manifest, 4, 3)
    with (
        open_device(bundle, 4, CudaDriver(library), mode) as session,
        open_session(Bundle.open(bundle), batch=4) as reference,
    ):
        for feed in (lambda s: s.prefill(texts), lambda s: s.step(inputs[0]), lambda s: s.prefill(texts, 2)):
            np.testing.assert_allclose(feed(session), feed(reference), rtol=1e-4, atol=1e-5)
        for name, value in reference.read_states().items():
            np.testing.assert_allclose(session.read_states()[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
        with pytest.raises(UserError, match="6 positions in one pass; the engine was built for 5"):
            session.feed(np.repeat(inputs[0], 6, 1))


def test_rows_get_what_they_get_alone_whichever_run_together(export_variant, library):
    path = export_variant("a-mixed")[2]
    bundle = Bundle.open(path)
    rows = [4 * int(np.prod(state.sized(1))) for state in bundle.manifest.states]
    assert any(size % 256 for size in rows)  # some go through aligned copies
    with open_device(path, 5, CudaDriver(library)) as session, open_session(bundle) as alone:
        assert walk_over_rows(session, alone, operations=60, most=MAX_CHUNK) > 5
    assert ctypes.CDLL(library).fake_live() == 0


def test_session_is_used_from_a_thread_that_did_not_open_it(bundle, library):
    inputs = draw(Bundle.open(bundle).manifest, 2, 1)[0]
    with open_device(bundle, 2, CudaDriver(library)) as session, open_onnx(bundle, 2) as reference:
        with ThreadPoolExecutor(1) as other:
            outputs = other.submit(session.step, inputs).result()
        np.testing.assert_allclose(outputs, reference.step(inputs), rtol=1e-5, atol=1e-5)


def test_engine_for_single_steps_takes_prompts_step_by_step(export_variant, library):
    bundle = export_variant("a-mixed", mode="step")[2]
    texts = prompts(Bundle.open(bundle).manifest, [7, 7])
    with (
        open_device(bundle, 2, CudaDriver(library), "step") as session,
        open_session(Bundle.open(bundle), batch=2) as reference,
    ):
        np.testing.assert_allclose(session.prefill(texts), reference.prefill(texts), rtol=1e-5, atol=1e-5)
        with pytest.raises(UserError, match="Export it with --mode both"):
            session.prefill([texts[0], texts[1][:3]])


def test_closing_gives_memory_stream_and_context_back(bundle, library):
    live = ctypes.CDLL(library).fake_live
    with open_device(bundle, 2, CudaDriver(library)) as session:
        assert live() == 6  # a context, a stream and memory each, for the states and for single steps
        session.prefill(prompts(Bundle.open(bundle).manifest, [3, 2]))
        assert live() == 9
    assert live() == 0


def test_engine_without_one_of_the_tensors_is_refused_and_leaks_nothing(bundle, library):
    context = OnnxRuntimeContext(bundle)
    del context.types[Bundle.open(bundle).manifest.output.name]
    with pytest.raises(UserError, match="has no tensor"):
        DeviceSession(Bundle.open(bundle), 2, lambda: context, CudaDriver(library), PROFILES["both"], MAX_CHUNK)
    assert ctypes.CDLL(library).fake_live() == 0


def test_inputs_and_states_of_another_shape_are_refused(bundle, library):
    manifest = Bundle.open(bundle).manifest
    with open_device(bundle, 2, CudaDriver(library)) as session:
        with pytest.raises(UserError, match="expected"):
            session.step(draw(manifest, 3, 1)[0])
        with pytest.raises(UserError, match="expected"):
            session.write_states({name: value[:1] for name, value in session.read_states().items()})
        with pytest.raises(UserError, match="row 2 is not one of 0 to 1"):
            session.reset(2)


def test_network_of_several_inputs_and_outputs_equals_the_onnx_runtime_session(library, tmp_path):
    bundle, random = summing_network(tmp_path / "bundle"), np.random.default_rng(0)
    with open_device(bundle, 3, CudaDriver(library)) as session, open_onnx(bundle, 3) as reference:
        for positions, lengths in ((1, None), (5, [5, 0, 2]), (1, [1, 1, 0]), (3, None), (2, [1, 2, 0])):
            inputs = {
                "x": random.standard_normal((3, positions, 3), np.float32),
                "w": random.integers(-3, 4, (3, 2, positions)),
                "scale": random.standard_normal((3, 1), np.float32),
            }
            outputs, expected = session.run(inputs, lengths), reference.run(inputs, lengths)
            assert list(outputs) == list(expected)
            for name, value in expected.items():
                np.testing.assert_array_equal(outputs[name], value, err_msg=name)
            for one in (session, reference):
                one.reset(1)
        np.testing.assert_array_equal(session.read_states()["net.total"], reference.read_states()["net.total"])
        with pytest.raises(UserError, match="6 positions in one pass; the engine was built for 5"):
            session.run(inputs | {"x": np.repeat(inputs["x"], 3, 1), "w": np.repeat(inputs["w"], 3, 2)})


def test_policy_without_a_time_axis_equals_the_onnx_runtime_session(library, tmp_path):
    bundle, random = policy_network(tmp_path / "bundle"), np.random.default_rng(0)
    with open_device(bundle, 2, CudaDriver(library), "step") as session, open_onnx(bundle, 2) as reference:
        for _ in range(5):
            inputs = {"observation": random.standard_normal((2, 3), np.float32)}
            expected = reference.run(inputs)
            for name, value in session.run(inputs).items():
                np.testing.assert_array_equal(value, expected[name])


def test_windows_with_outputs_of_unknown_size_equal_the_onnx_runtime_session(library, tmp_path):
    bundle, random = window_network(tmp_path / "bundle"), np.random.default_rng(0)
    with open_device(bundle, 2, CudaDriver(library), "window") as session, open_onnx(bundle, 2) as reference:
        for positions in (5, 2, 4, 5):
            inputs = {"x": random.standard_normal((2, positions, 3), np.float32)}
            inputs["mask"] = random.integers(0, 2, (2, positions), np.int32)
            outputs, expected = session.run(inputs), reference.run(inputs)
            assert outputs["pairs"].shape == (2, positions // 2, 3)
            for name, value in expected.items():
                np.testing.assert_array_equal(outputs[name], value, err_msg=name)
        session.reset()
        assert session.read_states() == {}
    assert ctypes.CDLL(library).fake_live() == 0


def test_output_whose_size_depends_on_values_is_refused(library, tmp_path):
    context = OnnxRuntimeContext(window_network(tmp_path / "bundle"), "window")
    context.get_max_output_size = lambda name: -1
    with pytest.raises(UserError, match="size of the output pairs depends on the values"):
        DeviceSession(
            Bundle.open(tmp_path / "bundle"), 2, lambda: context, CudaDriver(library), PROFILES["window"], MAX_CHUNK
        )
    assert ctypes.CDLL(library).fake_live() == 0


def test_driver_reports_devices_and_its_own_errors(library):
    driver = CudaDriver(library)
    (gpu,) = driver.gpus()
    assert (gpu.name, gpu.target, gpu.memory_bytes, driver.version()) == ("Test device", "sm89", 24 << 30, "13.1")
    with pytest.raises(UserError, match=r"cuMemAlloc_v2: out of memory \(code 2\)"):
        DeviceMemory(driver, 1 << 40)
    assert ctypes.CDLL(library).fake_live() == 0


def test_machine_without_a_driver_has_no_gpus(monkeypatch):
    monkeypatch.setattr("xlstm_export.nvidia.driver.CudaDriver.__init__.__defaults__", ("libno-such-driver.so",))
    assert list_gpus() == []
