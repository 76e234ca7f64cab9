"""ONNX Runtime, on the CPU or on CUDA, with or without the custom-op library."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ..bundle import Bundle, Manifest, TensorSpec
from ..bundle.dtypes import DTYPES
from ..bundle.engine_record import ACTIVATIONS, Activations
from ..bundle.graph_file import BFLOAT16
from ..errors import ErrorKind, UserError
from ..nvidia.driver import CudaDriver, DeviceMemory, list_gpus
from .checks import Pass
from .session import Session
from .states import ALIGNMENT, HostMemory, RowStates
from .widen import widen_bfloat16

_log = logging.getLogger(__name__)
_ACCURACY_LEVELS: dict[Activations, str] = {"float32": "1", "int8": "4"}
"""Of ONNX Runtime's products with quantised weights."""
LAYERS_ENTRY = "ai.xlstm.layers"
"""Session entry of the custom-op library: whether what stands around the cells runs in its kernels too (CPUs only)."""
_TINY = 8 << 20
"""Bytes of weights: below, a step's nodes are so short that waking a second thread for them gains nothing."""


class OnnxRuntimeSession(Session):
    """A `Session`. States stay on the device.

    Our CPU kernels update a cell's states in place, which is faster: with them these states have one buffer.
    """

    def __init__(
        self, bundle: Bundle, batch: int, custom_ops: Path | None = None, activations: Activations = ACTIVATIONS
    ):
        # ONNX Runtime, when asked for CUDA instead, prints errors where there is none.
        self._device = "cuda" if list_gpus() else "cpu"
        if self._device == "cuda" and bundle.manifest.state_dtype == "bfloat16":
            raise UserError(
                ErrorKind.unavailable,
                f"{bundle.path} stores states in bfloat16, which ONNX Runtime's Python package cannot read from a GPU. "
                "Export it with --state-dtype float16 or float32, run it on TensorRT, or in the C++ library.",
            )
        self._session = _load(bundle, custom_ops, self._device, activations)
        kernels = custom_ops is not None and self._device == "cpu"
        in_place = [state.input for state in bundle.manifest.states if kernels and state.in_place]
        if self._device == "cpu":
            states = RowStates(bundle.manifest, batch, HostMemory, in_place)
        else:
            states = RowStates(bundle.manifest, batch, self._allocate, row_alignment=ALIGNMENT)
        super().__init__(bundle, states)
        self._one = self._several = self._bind(self._all, 1)

    def _allocate(self, size: int) -> DeviceMemory:
        self._memory = DeviceMemory(CudaDriver(), size)
        return self._memory

    def _bind(self, rows: range, positions: int) -> _BoundPass:
        what = (self._session, self.manifest, self._states, self._device)
        return _BoundPass(*what, rows, positions)

    def _run(self, given: Pass, rows: range, turn: int) -> dict[str, np.ndarray]:
        now = self._one if given.positions == 1 else self._several
        if now.rows != rows or now.positions != given.positions:
            now = self._bind(rows, given.positions)
            if given.positions == 1:
                self._one = now
            else:
                self._several = now
        return now.run(given, turn)

    def close(self) -> None:
        del self._one, self._several, self._session
        if self._device == "cuda":
            self._memory.close()


class _BoundPass:
    """Buffers of inputs and outputs for passes over so many positions of these rows, and the states bound in place.

    An output whose size is known after the run only has none: ONNX Runtime allocates it, each time anew.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        manifest: Manifest,
        states: RowStates,
        device: str,
        rows: range,
        positions: int,
    ):
        def zeros(tensor: TensorSpec) -> ort.OrtValue:
            array = np.zeros(tensor.sized(len(rows), positions), DTYPES[tensor.dtype])
            return ort.OrtValue.ortvalue_from_numpy(array, device, 0)

        self.rows, self.positions = rows, positions
        self._session, self._manifest, self._states, self._device = session, manifest, states, device
        self._inputs = {tensor.name: zeros(tensor) for tensor in manifest.inputs}
        self._lengths = None if manifest.lengths is None else zeros(manifest.lengths)
        self._outputs = {t.name: None if None in t.shape else zeros(t) for t in manifest.outputs}
        self._unsized = [name for name, buffer in self._outputs.items() if buffer is None]
        self._turns: dict[int, ort.IOBinding] = {}

    def _bind(self, turn: int) -> ort.IOBinding:
        binding = self._session.io_binding()
        for name, value in self._inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():  # the first outputs of the binding, in this order
            if value is None:
                binding.bind_output(name, self._device)
            else:
                binding.bind_ortvalue_output(name, value)
        if self._manifest.lengths is not None:
            binding.bind_ortvalue_input(self._manifest.lengths.name, self._lengths)
        addresses = self._states.addresses(self.rows, turn)
        for state, (before, after) in zip(self._manifest.states, addresses, strict=True):
            dtype = BFLOAT16 if state.dtype == "bfloat16" else DTYPES[state.dtype]
            what = (self._device, 0, dtype, state.sized(len(self.rows)))
            binding.bind_input(state.input, *what, before)
            binding.bind_output(state.output, *what, after)
        return binding

    def run(self, given: Pass, turn: int) -> dict[str, np.ndarray]:
        """One pass from the states of that turn to those of the other."""
        for name, value in self._inputs.items():
            value.update_inplace(given.inputs[name])
        if self._lengths is not None:
            self._lengths.update_inplace(given.lengths)
        if turn not in self._turns:
            self._turns[turn] = self._bind(turn)
        binding = self._turns[turn]
        for name in self._unsized:  # else what the last pass got would be its buffer, whatever the size now
            binding.bind_output(name, self._device)
        try:
            self._session.run_with_iobinding(binding)
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
    options.log_severity_level = 2 if _log.isEnabledFor(logging.DEBUG) else 3  # warnings, or errors alone
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdigit() else 1 if _is_tiny(bundle) else 0  # 0: the cores
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", _ACCURACY_LEVELS[activations])
    # Threads that wait for the next pass in a loop take the cores from all else, another session's pass above all.
    options.add_session_config_entry("session.force_spinning_stop", "1")
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
    _log.debug(
        "ONNX Runtime %s on %s, threads: %s, cells: %s, activations of quantised products: %s, loads %s",
        ort.__version__,
        device,
        options.intra_op_num_threads or "one a core",
        custom_ops or "their definitions",
        activations,
        bundle.model_file,
    )
    model: str | bytes = str(bundle.model_file)
    if bundle.manifest.dtype == "bfloat16" and device == "cpu":
        model = widen_bfloat16(bundle.model_file, kernels=custom_ops is not None)
        folder = str(bundle.path.resolve())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        session = ort.InferenceSession(model, options, providers=providers)
        _log.debug("ONNX Runtime took the providers %s", ", ".join(session.get_providers()))
        return session
    except Exception as error:  # ONNX Runtime's own exception types share no base but this
        raise UserError(ErrorKind.bundle, f"ONNX Runtime cannot load {bundle.model_file}: {error}") from None
