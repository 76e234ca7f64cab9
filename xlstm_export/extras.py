"""Which extra of the package brings which module: `pip install xlstm-export` alone brings what every command needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ErrorKind, UserError

EXTRA_OF = {
    "onnxruntime": "run",
    "tokenizers": "tokenizers",
    "torch": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "yaml": "export",
    "matplotlib": "export",
    "polygraphy": "export",
    "ray": "serve",
    "starlette": "serve",
}
"""Module: extra. TensorRT's two flavours have messages of their own (`nvidia.flavours`), and so has upstream's code."""


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'xlstm-export[{extra}]'"


@contextmanager
def extras_required() -> Iterator[None]:
    """Around what imports modules of extras.

    Raises:
        UserError: one of them is not installed; says which extra to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRA_OF:
            raise
        extra = EXTRA_OF[module]
        instead = " (with a GPU: 'xlstm-export[gpu]')" if extra == "run" else ""
        raise UserError(
            ErrorKind.unavailable, f"This needs {module}, which is not installed. Run: {install(extra)}{instead}"
        ) from None
