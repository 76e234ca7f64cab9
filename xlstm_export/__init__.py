"""Deployment compiler for xLSTM: checkpoint to ONNX to engine.

    import xlstm_export

    bundle = xlstm_export.export("ckpt.pt", "bundle")
    for piece in xlstm_export.generate(bundle, "In the beginning "):
        print(piece, end="")

What is listed in `__all__` is the public interface; it is documented in `api.py`. Everything else may change.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .api import export, export_network, forecast, generate, open_bundle, open_session
    from .bundle import Bundle
    from .errors import ErrorKind, UserError
    from .forecasting import Forecaster, ForecastStream
    from .forecasting.forecast import Forecast
    from .runtime import Session
    from .runtime.sampling import Sampling

__all__ = [
    "Bundle",
    "ErrorKind",
    "Forecast",
    "ForecastStream",
    "Forecaster",
    "Sampling",
    "Session",
    "UserError",
    "__version__",
    "export",
    "export_network",
    "forecast",
    "generate",
    "open_bundle",
    "open_session",
]

_HOMES = {
    "Bundle": ".bundle",
    "ErrorKind": ".errors",
    "Forecast": ".forecasting.forecast",
    "ForecastStream": ".forecasting",
    "Forecaster": ".forecasting",
    "Sampling": ".runtime.sampling",
    "Session": ".runtime",
    "UserError": ".errors",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: `import xlstm_export` itself loads nothing heavy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, ".api"), __name__), name)
