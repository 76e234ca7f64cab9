"""A session for a bundle, on whichever runtime."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from ..bundle import Bundle
from ..bundle.engine_record import ACTIVATIONS, Activations, RuntimeName
from ..errors import ErrorKind, UserError
from .session import Session

RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)


def open_session(
    bundle: Bundle,
    runtime: RuntimeName = "onnxruntime",
    batch: int = 1,
    custom_ops: Path | None = None,
    engine: Path | None = None,
    activations: Activations = ACTIVATIONS,
) -> Session:
    """Load a bundle and start a session of `batch` sequences with zero states.

    Args:
        bundle: what to run.
        runtime: `onnxruntime` (CUDA where there is a GPU, else the CPU), `tensorrt-rtx` or `tensorrt`.
        batch: number of sequences; must be the bundle's own when that is fixed.
        custom_ops: the custom-op library for ONNX Runtime; None runs the cells' definitions.
        engine: for the TensorRT runtimes; None takes the bundle's newest that fits.
        activations: what ONNX Runtime multiplies quantised weights with on the CPU. `int8` rounds the inputs of each
            product (to 8 bits, beside 8-bit weights our kernel to 15); `float32` is exact, and for 8-bit weights slower
            than a bundle that is not quantised.

    Raises:
        UserError: a batch that the bundle was not made for, or a runtime that is not here.
    """
    made_for = bundle.manifest.batch
    if made_for is not None and batch != made_for:
        raise UserError(
            ErrorKind.argument,
            f"{bundle.path} was exported for batch {made_for}, not {batch}. Export it with --batch dynamic or {batch}.",
        )
    if runtime == "onnxruntime":
        from .onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(bundle, batch, custom_ops, activations)
    if runtime in RUNTIMES:
        from .tensorrt import TensorRTSession

        return TensorRTSession(bundle, batch, runtime, engine)
    raise UserError(ErrorKind.argument, f"unknown runtime {runtime!r}: choose one of {', '.join(RUNTIMES)}.")
