"""ONNX Runtime, on the CPU or on CUDA, with or without the custom-op library."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ..bundle import Bundle, TensorSpec
from ..errors import ErrorKind, UserError
from ..nvidia.driver import list_gpus
from .session import Session, checked_pass
from .widen import widen_bfloat16


class OnnxRuntimeSession(Session):
    """A `Session`. States stay on the device, in two sets of buffers that are input and output by turns.

    Our CPU kernels update a cell's states in place, which is faster: with them these states have one buffer.
    """

    def __init__(self, bundle: Bundle, batch: int, custom_ops: Path | None = None):
        super().__init__(bundle, batch)
        # ONNX Runtime, when asked for CUDA instead, prints errors where there is none.
        self._device = "cuda" if list_gpus() else "cpu"
        self._session = _load(bundle, custom_ops, self._device)
        states = bundle.manifest.states
        self._names = [s.input for s in states]
        kernels = custom_ops is not None and self._device == "cpu"
        first = [self._zeros(s.spec, 1) for s in states]
        second = [
            value if kernels and state.in_place else self._zeros(state.spec, 1)
            for state, value in zip(states, first, strict=True)
        ]
        self._buffers, self._turn = (first, second), 0
        self._decode = self._prefill = _BoundPass(self, 1)

    def _zeros(self, tensor: TensorSpec, sequence: int) -> ort.OrtValue:
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
            now = self._prefill = _BoundPass(self, sequence)
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

    def close(self) -> None:
        del self._decode, self._prefill, self._session


class _BoundPass:
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
        if manifest.lengths is not None:
            binding.bind_ortvalue_input(manifest.lengths.name, self.lengths)
        before, after = session._buffers[turn], session._buffers[1 - turn]
        for state, value_in, value_out in zip(manifest.states, before, after, strict=True):
            binding.bind_ortvalue_input(state.input, value_in)
            binding.bind_ortvalue_output(state.output, value_out)
        return binding


def _load(bundle: Bundle, custom_ops: Path | None, device: str) -> ort.InferenceSession:
    bundle.require_complete()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdigit() else 0  # 0: one for each core
    if custom_ops is not None:
        if not custom_ops.is_file():
            raise UserError(
                ErrorKind.unavailable,
                f"no custom-op library at {custom_ops}. Build it with `xlstm-export plugins build`.",
            )
        options.register_custom_ops_library(str(custom_ops.resolve()))
    providers = ["CPUExecutionProvider"]
    if device == "cuda":
        providers.insert(0, "CUDAExecutionProvider")
    model: str | bytes = str(bundle.model_file)
    if bundle.manifest.dtype == "bfloat16" and device == "cpu":
        model = widen_bfloat16(bundle.model_file)
        folder = str(bundle.path.resolve())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime's own exception types share no base but this
        raise UserError(ErrorKind.bundle, f"ONNX Runtime cannot load {bundle.model_file}: {error}") from None
