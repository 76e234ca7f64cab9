"""Run a bundle from Python: `open_session` on any runtime, text in and out, sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..bundle.manifest import read_manifest
from ..errors import ErrorKind, UserError
from .session import Session

RuntimeName = Literal["onnxruntime", "tensorrt-rtx", "tensorrt"]
RUNTIMES: tuple[RuntimeName, ...] = ("onnxruntime", "tensorrt-rtx", "tensorrt")


def open_session(
    bundle: Path,
    runtime: str = "onnxruntime",
    batch: int = 1,
    ort_library: Path | None = None,
    engine: Path | None = None,
) -> Session:
    """Load a bundle and start a session of `batch` sequences with zero states.

    Args:
        bundle: a folder written by `xlstm-export onnx`.
        runtime: `onnxruntime` (CUDA where there is a GPU, else CPU), `tensorrt-rtx` or `tensorrt`.
        batch: number of sequences; must be the bundle's own when that is fixed.
        ort_library: custom-op library for ONNX Runtime; None runs the function bodies.
        engine: for the TensorRT runtimes; None takes the bundle's own.

    Raises:
        UserError: not a bundle, a batch that it was not made for, or a runtime that is not here.
    """
    manifest = read_manifest(bundle)
    if manifest.batch is not None and batch != manifest.batch:
        raise UserError(
            ErrorKind.argument,
            f"{bundle} was exported for batch {manifest.batch}, not {batch}. "
            f"Export it with --batch dynamic or {batch}.",
        )
    if runtime == "onnxruntime":
        from .onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(bundle, manifest, batch, ort_library)
    if runtime in RUNTIMES:
        from .tensorrt import TensorRTSession

        return TensorRTSession(bundle, manifest, batch, runtime, engine)
    raise UserError(ErrorKind.argument, f"unknown runtime {runtime!r}: choose one of {', '.join(RUNTIMES)}.")


__all__ = ["RUNTIMES", "RuntimeName", "Session", "open_session"]
