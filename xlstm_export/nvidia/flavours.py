"""TensorRT and TensorRT-RTX as Python modules: what to install, how to load one, its logger and its plugins.

A process that has loaded one flavour does not load the other.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ErrorKind, UserError
from ..operators.names import DOMAIN, MLSTM_CELL, VERSION

_log = logging.getLogger(__name__)
MODULES: dict[str, str] = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
PACKAGES: dict[str, str] = {"tensorrt-rtx": "tensorrt-rtx", "tensorrt": "tensorrt"}
INSTALL: dict[str, str] = {
    "tensorrt-rtx": "pip install 'xlstm-export[tensorrt-rtx]'",
    "tensorrt": "pip install 'xlstm-export[tensorrt]' (on Jetson it comes with JetPack: create the virtual environment "
    "with --system-site-packages)",
}


def is_installed(runtime: str) -> bool:
    """Whether the module is there, without importing it."""
    return importlib.util.find_spec(MODULES[runtime]) is not None


def require_installed(runtime: str) -> None:
    """Look for the module without importing it.

    Raises:
        UserError: it is not there; says what to install.
    """
    if not is_installed(runtime):
        raise UserError(ErrorKind.unavailable, f"{runtime} is not installed here: {INSTALL[runtime]}.")


def installed_major_version(runtime: str) -> int | None:
    """Of TensorRT's package, without importing it; None where it is not installed, or not as a package."""
    try:
        return int(metadata.version(PACKAGES[runtime]).partition(".")[0])
    except (metadata.PackageNotFoundError, ValueError):
        return None


def import_flavour(runtime: str) -> ModuleType:
    """Import `tensorrt` or `tensorrt_rtx`.

    Raises:
        UserError: it is not installed, cannot be loaded, or the other flavour is loaded already.
    """
    require_installed(runtime)
    for other, module in MODULES.items():
        if other != runtime and module in sys.modules:
            raise UserError(
                ErrorKind.unavailable, f"{other} is loaded in this process already; run {runtime} in another process."
            )
    try:
        return importlib.import_module(MODULES[runtime])
    except (ImportError, OSError) as error:
        raise UserError(
            ErrorKind.unavailable, f"{runtime} is installed but cannot be loaded ({error}): {INSTALL[runtime]}."
        ) from None


def without_places(message: str) -> str:
    """A message of TensorRT on one line, without the places in its own sources where it arose."""
    message = re.sub(r"\[\w+\.(?:h|hpp|cpp|cc|cu):\d+: \w+\]\s*|\s*In \w+ at \S+\.\w+:\d+", "", message)
    return " ".join(message.split())


def make_logger(trt: Any) -> Any:
    """A logger of that flavour which keeps errors in `errors`, for a report; warnings and errors go to `logging`."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.WARNING:
                _log.debug("%s", without_places(message))
            if severity <= trt.ILogger.ERROR:
                self.errors.append(without_places(message))

    return Logger()


def start(kind: Callable[[Any], Any], logger: Any, version: str) -> Any:
    """Create TensorRT's `Builder` or `Runtime` with a logger of `make_logger`.

    Without a usable GPU or driver, TensorRT logs an error and gives nothing, or an object that crashes when it is used.

    Raises:
        UserError: it could not start; says what TensorRT said.
    """
    try:
        started = kind(logger)
    except TypeError:  # how pybind11 says that the factory returned null
        started = None
    if started is None or logger.errors:
        raise UserError(
            ErrorKind.unavailable,
            f"TensorRT {version} cannot start: {'; '.join(logger.errors) or 'no reason given'}. "
            "The NVIDIA driver may be too old for it; `xlstm-export doctor` shows both.",
        )
    return started


def load_plugins(registry: Any, version: str, errors: list[str], library: Path) -> None:
    """Load the plugin library into a registry of TensorRT, unless its creators are there already.

    Args:
        registry: an `IPluginRegistry`.
        version: of TensorRT, for messages.
        errors: what TensorRT's logger has collected, for messages.
        library: `libxlstm_tensorrt.so`.

    Raises:
        UserError: it is missing, cannot be loaded, or is another library.
    """
    if not library.is_file():
        raise UserError(
            ErrorKind.unavailable, f"no plugin library at {library}. Build it with `xlstm-export plugins build`."
        )

    def known() -> bool:
        return registry.get_creator(MLSTM_CELL, str(VERSION), DOMAIN) is not None

    if known():
        return
    _log.debug("TensorRT %s loads the plugins in %s", version, library)
    if registry.load_library(str(library.resolve())) is None:
        raise UserError(
            ErrorKind.unavailable,
            f"TensorRT {version} cannot load the plugin library {library}: {'; '.join(errors) or 'it gave no reason'}. "
            "`xlstm-export plugins check` says more about it.",
        )
    if not known():
        raise UserError(
            ErrorKind.unavailable,
            f"{library} is not the plugin library of xlstm-export: it holds no {MLSTM_CELL} of {DOMAIN}.",
        )
