"""What the user asks of an engine, and what that comes to for one bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..bundle import Bundle
from ..bundle.engine_record import EngineRuntime
from ..bundle.manifest import Dtype
from ..errors import ErrorKind, UserError
from ..native.locate import TENSORRT_PLUGINS, choose_library
from .targets import (
    BatchRange,
    Profile,
    batch_range,
    check_dtype,
    engine_name,
    input_profiles,
    max_chunk_of,
    parse_targets,
)


@dataclass(frozen=True)
class EngineRequest:
    """What the user asks for."""

    runtime: EngineRuntime
    """`tensorrt-rtx` needs no GPU when `targets` are named; `tensorrt` builds on the GPU that it is for."""
    targets: tuple[str, ...] = ()
    """For TensorRT-RTX the compute capabilities to run on (`sm86`), or `current`; none is
    `targets.DEFAULT_RTX_TARGETS`."""
    batch: str | None = None
    """`LEAST:TUNED:MOST` or a number, where the bundle's batch is dynamic; None is `targets.DEFAULT_BATCH`."""
    max_chunk: int | None = None
    """The most positions of one pass of a prompt (None is `targets.DEFAULT_MAX_CHUNK`), or of a window of any length,
    for which it must be said."""
    plugins: str | None = None
    """TensorRT's plugin library, which is copied beside the engine. None: the one that `plugins build` made, if any.
    `none`: the cells' definitions are compiled. TensorRT-RTX has no plugin layers."""
    version_compatible: bool = False
    """Later versions of TensorRT load the engine too."""
    hardware_compatible: bool = False
    """Other GPUs from Ampere on run the engine too (TensorRT)."""


@dataclass(frozen=True)
class EnginePlan:
    """What is built: a request that was held against a bundle and filled in."""

    runtime: EngineRuntime
    targets: tuple[str, ...]
    batch: BatchRange
    max_chunk: int | None
    """None: one position a pass, or windows of one length."""
    profiles: tuple[Profile, ...]
    plugins: Path | None
    version_compatible: bool
    hardware_compatible: bool

    @property
    def products_as_sums(self) -> bool:
        """Whether the cells' matrix products are written as sums: Turing has no float32 products in TensorRT-RTX."""
        return "sm75" in self.targets

    def engine_name(self, version: str, targets: tuple[str, ...], dtype: Dtype) -> str:
        """The file's name, once version and targets are known."""
        return engine_name(self.runtime, version, targets, dtype, self.batch, self.max_chunk)


def plan_engine(bundle: Bundle, request: EngineRequest) -> EnginePlan:
    """Hold a request against a bundle.

    Raises:
        UserError: it is impossible, or contradicts itself or the bundle.
    """
    targets = parse_targets(request.runtime, request.targets)
    check_dtype(request.runtime, targets, bundle.manifest.dtype)
    plugins = _plugins(request)
    batch = batch_range(bundle.manifest, request.batch)
    max_chunk = max_chunk_of(bundle.manifest, targets, request.max_chunk)
    return EnginePlan(
        runtime=request.runtime,
        targets=targets,
        batch=batch,
        max_chunk=max_chunk,
        profiles=input_profiles(bundle.manifest, batch, max_chunk),
        plugins=plugins,
        version_compatible=request.version_compatible,
        hardware_compatible=request.hardware_compatible,
    )


def _plugins(request: EngineRequest) -> Path | None:
    if request.runtime == "tensorrt":
        return choose_library(TENSORRT_PLUGINS, request.plugins)
    if request.plugins not in (None, "none"):
        raise UserError(
            ErrorKind.argument,
            "TensorRT-RTX has no plugin layers and compiles the cells' definitions: leave --plugins out.",
        )
    if request.version_compatible:
        raise UserError(
            ErrorKind.argument, "TensorRT-RTX builds no version-compatible engines: build again after an upgrade."
        )
    if request.hardware_compatible:
        raise UserError(
            ErrorKind.argument, "for TensorRT-RTX name the GPUs with --target instead of --hardware-compatible."
        )
    return None
