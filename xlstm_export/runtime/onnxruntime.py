"""ONNX Runtime, on the CPU or on CUDA, with or without the custom-op library."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from ..errors import UserError
from ..graph.functions import DOMAIN
from ..graph.manifest import MODEL_FILE, Manifest
from .widen import widen_bfloat16

_NUMPY = {"float32": np.float32, "int64": np.int64}


class OnnxRuntimeSession:
    """A `Session`. States stay on the device, in two sets of buffers that are input and output by turns.

    Our CPU kernels update a cell's states in place, which is faster: with them these states have one buffer.
    """

    def __init__(self, bundle: Path, manifest: Manifest, batch: int, library: Path | None = None):
        self.manifest, self.batch = manifest, batch
        self._device = "cuda" if cuda_device_count() else "cpu"
        session = self._session = _load(bundle, manifest, library, self._device)
        self._names = [s.input for s in manifest.states]
        in_place = _states_of_cells(bundle) if library is not None and self._device == "cpu" else set()
        first = [self._zeros(s.shape, s.dtype) for s in manifest.states]
        second = [
            value if state.input in in_place else self._zeros(state.shape, state.dtype)
            for state, value in zip(manifest.states, first, strict=True)
        ]
        buffers = (first, second)
        self._inputs = self._zeros(manifest.input.shape, manifest.input.dtype)
        self._output = self._zeros(manifest.output.shape, manifest.output.dtype)
        self._turns = [self._bind(session, buffers[turn], buffers[1 - turn]) for turn in (0, 1)]
        self._buffers, self._turn = buffers, 0

    def _shape(self, shape: tuple[int | str, ...]) -> tuple[int, ...]:
        return (self.batch, *shape[1:])

    def _zeros(self, shape: tuple[int | str, ...], dtype: str) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_numpy(np.zeros(self._shape(shape), _NUMPY[dtype]), self._device, 0)

    def _bind(self, session: ort.InferenceSession, before: list, after: list) -> ort.IOBinding:
        binding = session.io_binding()
        binding.bind_ortvalue_input(self.manifest.input.name, self._inputs)
        binding.bind_ortvalue_output(self.manifest.output.name, self._output)
        for state, value_in, value_out in zip(self.manifest.states, before, after, strict=True):
            binding.bind_ortvalue_input(state.input, value_in)
            binding.bind_ortvalue_output(state.output, value_out)
        return binding

    def step(self, inputs: np.ndarray) -> np.ndarray:
        spec = self.manifest.input
        inputs = np.ascontiguousarray(inputs, _NUMPY[spec.dtype])
        if inputs.shape != self._shape(spec.shape):
            raise ValueError(f"{spec.name} has shape {inputs.shape}, expected {self._shape(spec.shape)}")
        self._inputs.update_inplace(inputs)
        self._session.run_with_iobinding(self._turns[self._turn])
        self._turn = 1 - self._turn
        return self._output.numpy().copy()

    def reset(self, row: int | None = None) -> None:
        states = self.read_states()
        for value in states.values():
            value[slice(None) if row is None else row] = 0
        self.write_states(states)

    def read_states(self) -> dict[str, np.ndarray]:
        current = self._buffers[self._turn]
        return {name: value.numpy().copy() for name, value in zip(self._names, current, strict=True)}

    def write_states(self, states: Mapping[str, np.ndarray]) -> None:
        for name, value in zip(self._names, self._buffers[self._turn], strict=True):
            value.update_inplace(np.ascontiguousarray(states[name], np.float32))

    def __enter__(self) -> OnnxRuntimeSession:
        return self

    def __exit__(self, *exception: object) -> None:
        del self._turns, self._session


def cuda_device_count() -> int:
    """CUDA devices that the driver sees. (ONNX Runtime, when asked instead, prints errors where there is none.)"""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _states_of_cells(bundle: Path) -> set[str]:
    """States that only a cell reads (`blocks.0.mlstm.C`, but no convolution's window): safe to update in place."""
    graph = onnx.load(bundle / MODEL_FILE, load_external_data=False).graph
    read_by_cells = {name for node in graph.node if node.domain == DOMAIN for name in node.input}
    return read_by_cells - {name for node in graph.node if node.domain != DOMAIN for name in node.input}


def _load(bundle: Path, manifest: Manifest, library: Path | None, device: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdigit() else 0  # 0: one a core
    if library is not None:
        if not library.is_file():
            raise UserError(f"no custom-op library at {library}. Build it with `xlstm-export plugins build`.")
        options.register_custom_ops_library(str(library.resolve()))
    providers = ["CPUExecutionProvider"]
    if device == "cuda":
        providers.insert(0, "CUDAExecutionProvider")
    model: str | bytes = str(bundle / MODEL_FILE)
    if manifest.dtype == "bfloat16" and device == "cpu":
        model = widen_bfloat16(bundle / MODEL_FILE)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle.resolve()))
    missing = [name for name in (MODEL_FILE, *manifest.weight_files) if not (bundle / name).is_file()]
    if missing:
        raise UserError(f"{bundle} lacks {', '.join(missing)}: it was not copied whole. Copy or export it again.")
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime's own exception types share no base but this
        raise UserError(f"ONNX Runtime cannot load {bundle / MODEL_FILE}: {error}") from None
