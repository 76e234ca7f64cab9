"""TensorRT and TensorRT-RTX engines as sessions.

The states live in device memory: a pass copies the inputs in and the outputs out, and nothing else.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..bundle import Bundle, Engine, Manifest, TensorSpec
from ..bundle.engine_record import EngineRuntime, ProfileName
from ..cache import cache_folder
from ..checksum import sha256
from ..errors import ErrorKind, UserError
from ..nvidia.driver import CudaDriver, DeviceMemory, Gpu
from ..nvidia.flavours import import_flavour, installed_major_version, load_plugins, make_logger, start
from .checks import Pass
from .session import Session
from .states import ALIGNMENT, RowStates, lay_out, nbytes

_log = logging.getLogger(__name__)


class _ProfilePass:
    """Passes of one optimisation profile: its execution context, and device memory for inputs and outputs.

    Args:
        profile: its number in the engine, or None where that has one only.
        positions: the most of one pass.
        states: the session's memory, on whose stream the profile is set.
    """

    def __init__(
        self,
        manifest: Manifest,
        batch: int,
        positions: int,
        context: Any,
        profile: int | None,
        driver: CudaDriver,
        states: DeviceMemory,
    ):
        self.positions = positions
        self._manifest, self._context = manifest, context
        self._inputs = [*manifest.inputs, *([manifest.lengths] if manifest.lengths else [])]
        if profile is not None and not context.set_optimization_profile_async(profile, states.stream):
            raise UserError(
                ErrorKind.bundle,
                f"the engine has no optimisation profile {profile}. Build it again from this bundle.",
            )
        states.synchronize()
        self._set_shapes(batch, positions)
        sizes = {tensor.name: nbytes(tensor.sized(batch, positions), tensor.dtype) for tensor in self._inputs}
        sizes |= {tensor.name: self._output_bytes(tensor) for tensor in manifest.outputs}
        offsets, total = lay_out(list(sizes.values()))
        self._at = dict(zip(sizes, offsets, strict=True))
        self._memory = DeviceMemory(driver, total)
        try:
            for name, offset in self._at.items():
                self._bind(name, self._memory.address + offset)
        except BaseException:
            self._memory.close()
            raise

    def _set_shapes(self, batch: int, positions: int) -> None:
        self._batch = 0
        for tensor in (*(state.spec for state in self._manifest.states), *self._inputs):
            self._set_shape(tensor, batch, positions)
        self._batch = batch

    def _set_shape(self, tensor: TensorSpec, batch: int, positions: int) -> None:
        shape = tensor.sized(batch, positions)
        if not self._context.set_input_shape(tensor.name, shape):
            raise UserError(
                ErrorKind.bundle, f"the engine refuses the shape {shape} for {tensor.name}. Build it again."
            )

    def _bind(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise UserError(ErrorKind.bundle, f"the engine has no tensor {name}. Build it again from this bundle.")

    def _output_bytes(self, tensor: TensorSpec) -> int:
        """Room for an output of any pass of the profile."""
        if None not in tensor.shape:
            return nbytes(tensor.sized(self._batch, self.positions), tensor.dtype)
        if (most := self._context.get_max_output_size(tensor.name)) < 1:
            self._refuse_unsized(tensor.name)
        return most

    def _output_shape(self, tensor: TensorSpec, positions: int) -> tuple[int, ...]:
        """Of the pass whose inputs have their shapes set."""
        if None not in tensor.shape:
            return tensor.sized(self._batch, positions)
        shape = tuple(self._context.get_tensor_shape(tensor.name))
        if min(shape) < 0:
            self._refuse_unsized(tensor.name)
        return shape

    def _refuse_unsized(self, name: str) -> NoReturn:
        raise UserError(
            ErrorKind.runtime,
            f"the size of the output {name} depends on the values of the inputs, which engines are not run with here. "
            "Use --runtime onnxruntime.",
        )

    def run(self, given: Pass, batch: int, addresses: list[tuple[int, int]]) -> dict[str, np.ndarray]:
        """One pass over so many rows, with each state read and written at these addresses; returns the outputs."""
        manifest, memory = self._manifest, self._memory
        if batch != self._batch:
            self._set_shapes(batch, given.positions)
        elif self.positions > 1:
            for tensor in manifest.inputs:
                if tensor.time_axis is not None:
                    self._set_shape(tensor, batch, given.positions)
        for state, (before, after) in zip(manifest.states, addresses, strict=True):
            self._bind(state.input, before)
            self._bind(state.output, after)
        outputs = {t.name: np.empty(self._output_shape(t, given.positions), t.dtype) for t in manifest.outputs}
        for name, array in given.inputs.items():
            memory.upload(self._at[name], array)
        if manifest.lengths is not None and given.lengths is not None:
            memory.upload(self._at[manifest.lengths.name], given.lengths)
        if not self._context.execute_async_v3(memory.stream):
            raise UserError(
                ErrorKind.runtime, "TensorRT could not run the pass; the device may have failed or run out of memory."
            )
        for name, array in outputs.items():
            memory.download(self._at[name], array)
        memory.synchronize()
        return outputs

    def close(self) -> None:
        self._memory.synchronize()
        self._memory.close()


class DeviceSession(Session):
    """A `Session` whose states lie in one allocation on the device, whatever the profile that advances them.

    Args:
        bundle, batch: what to run, on how many sequences.
        open_context: makes an `IExecutionContext`, or what has its `set_input_shape`, `set_tensor_address`,
            `set_optimization_profile_async` and `execute_async_v3`, and where an output's size is not known before,
            `get_max_output_size` and `get_tensor_shape`. One for each profile, when first needed.
        driver: of the device that the contexts are on.
        profiles, max_chunk, fewest_rows: of the engine's record.
    """

    def __init__(
        self,
        bundle: Bundle,
        batch: int,
        open_context: Callable[[], Any],
        driver: CudaDriver,
        profiles: tuple[ProfileName, ...] = ("decode",),
        max_chunk: int | None = None,
        fewest_rows: int = 1,
    ):
        self._open_context, self._driver, self._profiles = open_context, driver, profiles

        def allocate(size: int) -> DeviceMemory:
            self._memory = DeviceMemory(driver, size)
            return self._memory

        states = RowStates(bundle.manifest, batch, allocate, row_alignment=ALIGNMENT)
        super().__init__(bundle, states, max_chunk, fewest_rows)
        self._passes: dict[ProfileName, _ProfilePass] = {}
        try:
            self._pass_of(1)
        except BaseException:
            self._memory.close()
            raise

    def _pass_of(self, positions: int) -> _ProfilePass:
        profile = self._profiles[0]  # in order: single steps first, where there are profiles for both
        if positions > 1:
            profile = self._profiles[-1]
        if profile not in self._passes:
            index = self._profiles.index(profile) if len(self._profiles) > 1 else None
            most = 1 if profile == "decode" else self.max_chunk or 1
            context = self._open_context()
            self._passes[profile] = _ProfilePass(
                self.manifest, self.batch, most, context, index, self._driver, self._memory
            )
        return self._passes[profile]

    def _run(self, given: Pass, rows: range, turn: int) -> dict[str, np.ndarray]:
        if given.positions > (most := self.max_chunk or 1):
            raise UserError(
                ErrorKind.argument,
                f"{given.positions} positions in one pass; the engine was built for {most}. "
                "Feed fewer, or build one with a larger --max-chunk.",
            )
        return self._pass_of(given.positions).run(given, len(rows), self._states.addresses(rows, turn))

    def close(self) -> None:
        for one in self._passes.values():
            one.close()
        self._memory.close()


class TensorRTSession(DeviceSession):
    """A `Session` on the first GPU.

    Args:
        bundle, batch: what to run, on how many sequences.
        runtime: `tensorrt-rtx` or `tensorrt`.
        engine: None takes the bundle's newest that fits.

    Raises:
        UserError: no engine that fits, no runtime, no GPU, or an engine for another GPU or version.
    """

    def __init__(self, bundle: Bundle, batch: int, runtime: EngineRuntime, engine: Path | None = None):
        found = bundle.find_engine(runtime, batch, installed_major_version(runtime), engine)
        record = found.record
        driver, gpu = _first_gpu(runtime)
        if runtime == "tensorrt-rtx" and gpu.target not in record.targets:
            raise UserError(
                ErrorKind.unavailable,
                f"{found.path.name} is for {', '.join(record.targets)}, and this machine's {gpu.name} is {gpu.target}. "
                f"Build one with `xlstm-export build {bundle.path} --runtime tensorrt-rtx --target {gpu.target}`.",
            )
        self._trt = import_flavour(runtime)
        _log.debug("%s %s on %s (%s) loads %s", runtime, self._trt.__version__, gpu.name, gpu.target, found.path)
        self._logger = make_logger(self._trt)
        self._runtime, self._engine = _load(self._trt, self._logger, found)
        self._cache: Any = None
        self._cache_file = cache_folder() / "jit" / f"{record.engine.sha256[:32]}-{gpu.target}"
        open_context = lambda: self._create_context(runtime)  # noqa: E731
        profiles = (record.profiles, record.max_chunk, record.batch[0])
        super().__init__(bundle, batch, open_context, driver, *profiles)

    def _create_context(self, runtime: str) -> Any:
        context = None
        if runtime == "tensorrt-rtx":  # it compiles kernels for this very GPU on first use; keep them
            config = self._engine.create_runtime_config()
            if self._cache is None:
                self._cache = config.create_runtime_cache()
                if self._cache_file.is_file():
                    self._cache.deserialize(self._cache_file.read_bytes())
            config.set_runtime_cache(self._cache)
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise UserError(
                ErrorKind.runtime,
                f"TensorRT cannot start the engine: {_reasons(self._logger)}. The GPU may lack memory.",
            )
        return context

    def close(self) -> None:
        super().close()
        self._save_cache()
        self._passes.clear()
        del self._cache, self._engine, self._runtime  # in this order, after the contexts

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
            ErrorKind.unavailable,
            f"{runtime} runs on an NVIDIA GPU, and the CUDA driver finds none here. "
            "Copy the bundle with its engine to the machine that has one, or use --runtime onnxruntime.",
        )
    return driver, gpus[0]


def _load(trt: Any, logger: Any, found: Engine) -> tuple[Any, Any]:
    """Runtime and engine, with the plugins that the engine needs."""
    path, record = found.path, found.record
    runtime = start(trt.Runtime, logger, trt.__version__)
    if record.options.version_compatible:
        runtime.engine_host_code_allowed = True  # such an engine brings its own lean runtime
    if record.plugins is not None:
        library = path.with_name(record.plugins.name)
        if library.is_file() and sha256(library) != record.plugins.sha256:
            raise UserError(
                ErrorKind.bundle,
                f"{library} is not the library that {path.name} was built with. Build the engine again.",
            )
        load_plugins(runtime.get_plugin_registry(), trt.__version__, logger.errors, library)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise UserError(
            ErrorKind.bundle,
            f"{record.runtime} {trt.__version__} cannot load {path.name} (built with {record.runtime_version} for "
            f"{', '.join(record.targets)}): {_reasons(logger)}. Build it again on this machine.",
        )
    return runtime, engine


def _reasons(logger: Any) -> str:
    return "; ".join(logger.errors[-3:]) or "no reason given"
