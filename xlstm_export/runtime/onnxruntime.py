"""ONNX Runtime, on the CPU or on CUDA, with or without the custom-op library."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from ..bundle.manifest import MODEL_FILE, Manifest, StateTensor, TensorSpec
from ..errors import ErrorKind, UserError
from ..operators.names import DOMAIN
from .session import Session, checked_pass
from .widen import widen_bfloat16


class OnnxRuntimeSession(Session):
    """A `Session`. States stay on the device, in two sets of buffers that are input and output by turns.

    Our CPU kernels update a cell's states in place, which is faster: with them these states have one buffer.
    """

    def __init__(self, bundle: Path, manifest: Manifest, batch: int, library: Path | None = None):
        self.manifest, self.batch = manifest, batch
        self._device = "cuda" if cuda_device_count() else "cpu"
        self.max_chunk = None
        self._session = _load(bundle, manifest, library, self._device)
        self._names = [s.input for s in manifest.states]
        in_place = _states_of_cells(bundle) if library is not None and self._device == "cpu" else set()
        first = [self._zeros(s, 1) for s in manifest.states]
        second = [
            value if state.input in in_place else self._zeros(state, 1)
            for state, value in zip(manifest.states, first, strict=True)
        ]
        self._buffers, self._turn = (first, second), 0
        self._decode = self._prefill = _Pass(self, 1)

    def _zeros(self, tensor: TensorSpec | StateTensor, sequence: int) -> ort.OrtValue:
        zeros = np.zeros(tensor.sized(self.batch, sequence), tensor.dtype)
        return ort.OrtValue.ortvalue_from_numpy(zeros, self._device, 0)

    def feed(self, inputs: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        inputs, lengths = checked_pass(self.manifest, self.batch, inputs, lengths)
        sequence = inputs.shape[1]
        if sequence == 1:
            now = self._decode
        elif self._prefill.sequence == sequence:
            now = self._prefill
        else:
            now = self._prefill = _Pass(self, sequence)
        now.inputs.update_inplace(inputs)
        if now.lengths is not None:
            now.lengths.update_inplace(lengths)
        self._session.run_with_iobinding(now.turns[self._turn])
        self._turn = 1 - self._turn
        return now.output.numpy().copy()

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
        del self._decode, self._prefill, self._session


class _Pass:
    """Buffers of inputs and outputs for passes over so many positions, bound with the states either way round."""

    def __init__(self, session: OnnxRuntimeSession, sequence: int):
        manifest, zeros = session.manifest, session._zeros
        self.sequence = sequence
        self.inputs, self.output = zeros(manifest.input, sequence), zeros(manifest.output, sequence)
        self.lengths = None if manifest.lengths is None else zeros(manifest.lengths, sequence)
        self.turns = [self._bind(session, turn) for turn in (0, 1)]

    def _bind(self, session: OnnxRuntimeSession, turn: int) -> ort.IOBinding:
        manifest, binding = session.manifest, session._session.io_binding()
        binding.bind_ortvalue_input(manifest.input.name, self.inputs)
        binding.bind_ortvalue_output(manifest.output.name, self.output)
        if self.lengths is not None:
            binding.bind_ortvalue_input(manifest.lengths.name, self.lengths)
        before, after = session._buffers[turn], session._buffers[1 - turn]
        for state, value_in, value_out in zip(manifest.states, before, after, strict=True):
            binding.bind_ortvalue_input(state.input, value_in)
            binding.bind_ortvalue_output(state.output, value_out)
        return binding


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
            raise UserError(
                ErrorKind.unavailable, f"no custom-op library at {library}. Build it with `xlstm-export plugins build`."
            )
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
        raise UserError(
            ErrorKind.bundle, f"{bundle} lacks {', '.join(missing)}: it was not copied whole. Copy or export it again."
        )
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime's own exception types share no base but this
        raise UserError(ErrorKind.bundle, f"ONNX Runtime cannot load {bundle / MODEL_FILE}: {error}") from None
