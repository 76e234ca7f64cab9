"""TensorRT and TensorRT-RTX engines as sessions.

The states live in device memory in two sets, which are input and output by turns: a step copies the tokens in and
the logits out, and nothing else.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..engines.cuda_driver import CudaDriver, DeviceMemory, Gpu
from ..engines.flavours import import_flavour, load_plugins, make_logger, start
from ..engines.record import EngineRecord, find_engine, sha256
from ..errors import UserError
from ..graph.manifest import Manifest
from ..native.locate import cache_folder

_ALIGNMENT = 256  # bytes; what TensorRT asks of tensor addresses
_BYTES = {"float32": 4, "int64": 8}


class DeviceSession:
    """A `Session` over an execution context whose tensors lie in one allocation on the device.

    Args:
        manifest: of the bundle.
        batch: number of sequences.
        context: an `IExecutionContext`, or what has its `set_input_shape`, `set_tensor_address` and `execute_async_v3`.
        driver: of the device that the context is on.
    """

    def __init__(self, manifest: Manifest, batch: int, context: Any, driver: CudaDriver):
        self.manifest, self.batch, self._context = manifest, batch, context
        sizes = [_nbytes(self._shape(s.shape), s.dtype) for s in manifest.states]
        total, offsets = 0, []
        tensors = (manifest.input, manifest.output)
        for size in (*(_nbytes(self._shape(t.shape), t.dtype) for t in tensors), *sizes, *sizes):
            offsets.append(total)
            total += -(-size // _ALIGNMENT) * _ALIGNMENT
        self._memory = DeviceMemory(driver, total)
        self._input_at, self._output_at = offsets[:2]
        first, second = offsets[2 : 2 + len(sizes)], offsets[2 + len(sizes) :]
        self._state_sets, self._turn = (first, second), 0
        self._inputs = np.zeros(self._shape(manifest.input.shape), manifest.input.dtype)
        try:
            self._memory.zero(0, total)
            self._bind_once()
        except BaseException:
            self._memory.close()
            raise

    def _shape(self, shape: tuple[int | str, ...]) -> tuple[int, ...]:
        return (self.batch, *shape[1:])

    def _bind_once(self) -> None:
        for tensor_name, shape in [
            (self.manifest.input.name, self.manifest.input.shape),
            *((s.input, s.shape) for s in self.manifest.states),
        ]:
            if not self._context.set_input_shape(tensor_name, self._shape(shape)):
                raise UserError(f"the engine refuses the shape {self._shape(shape)} for {tensor_name}. Build it again.")
        self._bind(self.manifest.input.name, self._input_at)
        self._bind(self.manifest.output.name, self._output_at)

    def _bind(self, name: str, offset: int) -> None:
        if not self._context.set_tensor_address(name, self._memory.address + offset):
            raise UserError(f"the engine has no tensor {name}. Build it again from this bundle.")

    def step(self, inputs: np.ndarray) -> np.ndarray:
        if inputs.shape != self._inputs.shape:
            raise ValueError(f"{self.manifest.input.name} has shape {inputs.shape}, expected {self._inputs.shape}")
        self._inputs[...] = inputs
        before, after = self._state_sets[self._turn], self._state_sets[1 - self._turn]
        for state, offset_in, offset_out in zip(self.manifest.states, before, after, strict=True):
            self._bind(state.input, offset_in)
            self._bind(state.output, offset_out)
        output = np.empty(self._shape(self.manifest.output.shape), self.manifest.output.dtype)
        self._memory.upload(self._input_at, self._inputs)
        if not self._context.execute_async_v3(self._memory.stream):
            raise UserError("TensorRT could not run the step; the device may have failed or run out of memory.")
        self._memory.download(self._output_at, output)
        self._memory.synchronize()
        self._turn = 1 - self._turn
        return output

    def reset(self, row: int | None = None) -> None:
        if row is not None and not 0 <= row < self.batch:
            raise IndexError(f"row {row} of a batch of {self.batch}")
        for state, offset in zip(self.manifest.states, self._state_sets[self._turn], strict=True):
            size = _nbytes(self._shape(state.shape), state.dtype)
            row_size = size // self.batch
            self._memory.zero(offset if row is None else offset + row * row_size, size if row is None else row_size)

    def read_states(self) -> dict[str, np.ndarray]:
        arrays = {s.input: np.empty(self._shape(s.shape), s.dtype) for s in self.manifest.states}
        for array, offset in zip(arrays.values(), self._state_sets[self._turn], strict=True):
            self._memory.download(offset, array)
        self._memory.synchronize()
        return arrays

    def write_states(self, states: Mapping[str, np.ndarray]) -> None:
        kept = []  # until they are copied
        for state, offset in zip(self.manifest.states, self._state_sets[self._turn], strict=True):
            array = np.ascontiguousarray(states[state.input], state.dtype)
            if array.shape != self._shape(state.shape):
                raise ValueError(f"{state.input} has shape {array.shape}, expected {self._shape(state.shape)}")
            self._memory.upload(offset, array)
            kept.append(array)
        self._memory.synchronize()

    def __enter__(self) -> DeviceSession:
        return self

    def __exit__(self, *exception: object) -> None:
        self._memory.synchronize()
        self._memory.close()


class TensorRTSession(DeviceSession):
    """A `Session` on the first GPU.

    Args:
        bundle, manifest, batch: what to run.
        runtime: `tensorrt-rtx` or `tensorrt`.
        engine: None takes the bundle's newest that fits.

    Raises:
        UserError: no engine that fits, no runtime, no GPU, or an engine for another GPU or version.
    """

    def __init__(self, bundle: Path, manifest: Manifest, batch: int, runtime: str, engine: Path | None = None):
        path, record = find_engine(bundle, runtime, batch, engine)
        driver, gpu = _first_gpu(runtime)
        if runtime == "tensorrt-rtx" and gpu.target not in record.targets:
            raise UserError(
                f"{path.name} is for {', '.join(record.targets)}, and this machine's {gpu.name} is {gpu.target}. "
                f"Build one with `xlstm-export build {bundle} --runtime tensorrt-rtx --target {gpu.target}`."
            )
        self._trt = import_flavour(runtime)
        self._logger = make_logger(self._trt)
        self._runtime, self._engine = _load(self._trt, self._logger, path, record)
        self._cache = None
        self._cache_file = cache_folder() / "jit" / f"{record.engine.sha256[:32]}-{gpu.target}"
        super().__init__(manifest, batch, self._create_context(runtime), driver)

    def _create_context(self, runtime: str) -> Any:
        context = None
        if runtime == "tensorrt-rtx":  # it compiles kernels for this very GPU on first use; keep them
            config = self._engine.create_runtime_config()
            self._cache = config.create_runtime_cache()
            if self._cache_file.is_file():
                self._cache.deserialize(self._cache_file.read_bytes())
            config.set_runtime_cache(self._cache)
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise UserError(f"TensorRT cannot start the engine: {_reasons(self._logger)}. The GPU may lack memory.")
        return context

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._save_cache()
        del self._context, self._cache, self._engine, self._runtime  # in this order

    def _save_cache(self) -> None:
        if self._cache is None:
            return
        data = self._cache.serialize()
        if data is None:
            return
        partial = self._cache_file.with_name(f"{self._cache_file.name}.{os.getpid()}")
        try:
            self._cache_file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(memoryview(data))
            os.replace(partial, self._cache_file)
        except OSError:  # a cache: the next session compiles again
            partial.unlink(missing_ok=True)


def _first_gpu(runtime: str) -> tuple[CudaDriver, Gpu]:
    try:
        driver = CudaDriver()
        gpus = driver.gpus()
    except OSError:
        gpus = []
    if not gpus:
        raise UserError(
            f"{runtime} runs on an NVIDIA GPU, and the CUDA driver finds none here. "
            "Copy the bundle with its engine to the machine that has one, or use --runtime onnxruntime."
        )
    return driver, gpus[0]


def _load(trt: Any, logger: Any, path: Path, record: EngineRecord) -> tuple[Any, Any]:
    """Runtime and engine, with the plugins that the engine needs."""
    runtime = start(trt.Runtime, logger, trt.__version__)
    if record.options.version_compatible:
        runtime.engine_host_code_allowed = True  # such an engine brings its own lean runtime
    if record.plugins is not None:
        library = path.with_name(record.plugins.name)
        if library.is_file() and sha256(library) != record.plugins.sha256:
            raise UserError(f"{library} is not the library that {path.name} was built with. Build the engine again.")
        load_plugins(runtime.get_plugin_registry(), trt.__version__, logger.errors, library)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise UserError(
            f"{record.runtime} {trt.__version__} cannot load {path.name} (built with {record.runtime_version} for "
            f"{', '.join(record.targets)}): {_reasons(logger)}. Build it again on this machine."
        )
    return runtime, engine


def _reasons(logger: Any) -> str:
    return "; ".join(logger.errors[-3:]) or "no reason given"


def _nbytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * _BYTES[dtype]
