"""ONNX Runtime, on the CPU or on CUDA, with or without the custom-op library."""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ..bundle import Bundle, TensorSpec
from ..bundle.dtypes import DTYPES
from ..bundle.engine_record import ACTIVATIONS, Activations
from ..bundle.graph_file import BFLOAT16
from ..errors import ErrorKind, UserError
from ..nvidia.driver import list_gpus
from .checks import Pass
from .session import Session
from .widen import widen_bfloat16

_ACCURACY_LEVELS: dict[Activations, str] = {"float32": "1", "int8": "4"}
"""Of ONNX Runtime's products with quantised weights."""
LAYERS_ENTRY = "ai.xlstm.layers"
"""Session entry of the custom-op library: whether what stands around the cells runs in its kernels too (CPUs only)."""
_TINY = 8 << 20
"""Bytes of weights: below, a step's nodes are so short that waking a second thread for them gains nothing."""


class OnnxRuntimeSession(Session):
    """A `Session`. States stay on the device, in two sets of buffers that are input and output by turns.

    Our CPU kernels update a cell's states in place, which is faster: with them these states have one buffer.
    """

    def __init__(
        self, bundle: Bundle, batch: int, custom_ops: Path | None = None, activations: Activations = ACTIVATIONS
    ):
        super().__init__(bundle, batch)
        # ONNX Runtime, when asked for CUDA instead, prints errors where there is none.
        self._device = "cuda" if list_gpus() else "cpu"
        if self._device == "cuda" and bundle.manifest.state_dtype == "bfloat16":
            raise UserError(
                ErrorKind.unavailable,
                f"{bundle.path} stores states in bfloat16, which ONNX Runtime's Python package cannot read from a GPU. "
                "Export it with --state-dtype float16 or float32, run it on TensorRT, or in the C++ library.",
            )
        self._session = _load(bundle, custom_ops, self._device, activations)
        states = bundle.manifest.states
        self._names = [s.input for s in states]
        kernels = custom_ops is not None and self._device == "cpu"
        first = [self._zeros(s.spec, 1) for s in states]
        second = [
            value if kernels and state.in_place else self._zeros(state.spec, 1)
            for state, value in zip(states, first, strict=True)
        ]
        self._buffers, self._turn = (first, second), 0
        self._in_place = any(value is other for value, other in zip(first, second, strict=True))
        self._spoilt = False
        self._one = self._several = _BoundPass(self, 1)

    def _zeros(self, tensor: TensorSpec, positions: int) -> ort.OrtValue:
        zeros = np.zeros(tensor.sized(self.batch, positions), DTYPES[tensor.dtype])
        if tensor.dtype == "bfloat16":
            return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(zeros.view(np.uint16), BFLOAT16)
        return ort.OrtValue.ortvalue_from_numpy(zeros, self._device, 0)

    def _run(self, given: Pass) -> dict[str, np.ndarray]:
        if given.positions == 1:
            now = self._one
        elif self._several.positions == given.positions:
            now = self._several
        else:
            now = self._several = _BoundPass(self, given.positions)
        self._require_states()
        self._spoilt = self._in_place  # unless it goes well
        outputs = now.run(self._session, given, self._turn)
        self._spoilt = False
        self._turn = 1 - self._turn
        return outputs

    def _require_states(self) -> None:
        if self._spoilt:
            raise UserError(
                ErrorKind.runtime,
                "The states are lost: a pass failed while it updated them in place. Reset the session, or load a saved "
                "state.",
            )

    def _reset(self, row: int | None) -> None:
        if row is None:
            self._write_states({s.input: np.zeros(s.sized(self.batch), DTYPES[s.dtype]) for s in self.manifest.states})
            return
        states = self.read_states()
        for value in states.values():
            value[row] = 0
        self.write_states(states)

    def read_states(self) -> dict[str, np.ndarray]:
        self._require_states()
        current = self._buffers[self._turn]
        return {name: _as_float32(value) for name, value in zip(self._names, current, strict=True)}

    def _write_states(self, states: dict[str, np.ndarray]) -> None:
        for name, value in zip(self._names, self._buffers[self._turn], strict=True):
            array = states[name]
            value.update_inplace(array.view(np.uint16) if array.dtype == DTYPES["bfloat16"] else array)
        self._spoilt = False

    def close(self) -> None:
        del self._one, self._several, self._session


def _as_float32(value: ort.OrtValue) -> np.ndarray:
    """A copy. ONNX Runtime does not give bfloat16 to NumPy: it is read where it lies, on the CPU."""
    if value.element_type() != BFLOAT16:
        return value.numpy().astype(np.float32)
    bits = (ctypes.c_uint16 * math.prod(value.shape())).from_address(value.data_ptr())
    return np.frombuffer(bits, DTYPES["bfloat16"]).reshape(value.shape()).astype(np.float32)


class _BoundPass:
    """Buffers of inputs and outputs for passes over so many positions, bound with the states either way round.

    An output whose size is known after the run only has none: ONNX Runtime allocates it, each time anew.
    """

    def __init__(self, session: OnnxRuntimeSession, positions: int):
        manifest, zeros = session.manifest, session._zeros
        self.positions, self._device = positions, session._device
        self._inputs = {tensor.name: zeros(tensor, positions) for tensor in manifest.inputs}
        self._lengths = None if manifest.lengths is None else zeros(manifest.lengths, positions)
        self._outputs = {t.name: None if None in t.shape else zeros(t, positions) for t in manifest.outputs}
        self._unsized = [name for name, buffer in self._outputs.items() if buffer is None]
        self._turns = [self._bind(session, turn) for turn in (0, 1)]

    def _bind(self, session: OnnxRuntimeSession, turn: int) -> ort.IOBinding:
        manifest, binding = session.manifest, session._session.io_binding()
        for name, value in self._inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():  # the first outputs of the binding, in this order
            if value is None:
                binding.bind_output(name, self._device)
            else:
                binding.bind_ortvalue_output(name, value)
        if manifest.lengths is not None:
            binding.bind_ortvalue_input(manifest.lengths.name, self._lengths)
        before, after = session._buffers[turn], session._buffers[1 - turn]
        for state, value_in, value_out in zip(manifest.states, before, after, strict=True):
            binding.bind_ortvalue_input(state.input, value_in)
            binding.bind_ortvalue_output(state.output, value_out)
        return binding

    def run(self, session: ort.InferenceSession, given: Pass, turn: int) -> dict[str, np.ndarray]:
        """One pass from the states of that turn to those of the other."""
        for name, value in self._inputs.items():
            value.update_inplace(given.inputs[name])
        if self._lengths is not None:
            self._lengths.update_inplace(given.lengths)
        binding = self._turns[turn]
        for name in self._unsized:  # else what the last pass got would be its buffer, whatever the size now
            binding.bind_output(name, self._device)
        try:
            session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's own exception types share no base but this
            where = f"in a pass over {self.positions} positions"
            raise UserError(ErrorKind.runtime, f"ONNX Runtime failed {where}: {error}") from None
        values = binding.get_outputs() if self._unsized else self._outputs.values()
        return {name: value.numpy().copy() for name, value in zip(self._outputs, values, strict=False)}


def _is_tiny(bundle: Bundle) -> bool:
    """By the size of the files, as in C++: the graph need not be read for it."""
    return sum((bundle.path / name).stat().st_size for name in bundle.manifest.weight_files) < _TINY


def _load(bundle: Bundle, custom_ops: Path | None, device: str, activations: Activations) -> ort.InferenceSession:
    bundle.require_complete()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdigit() else 1 if _is_tiny(bundle) else 0  # 0: the cores
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", _ACCURACY_LEVELS[activations])
    if custom_ops is not None:
        if not custom_ops.is_file():
            raise UserError(
                ErrorKind.unavailable,
                f"no custom-op library at {custom_ops}. Build it with `xlstm-export plugins build`.",
            )
        options.add_session_config_entry(LAYERS_ENTRY, "1" if device == "cpu" else "0")
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
