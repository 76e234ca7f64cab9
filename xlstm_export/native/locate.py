"""Where the native libraries are found without being named on the command line.

In this order: the folder that `XLSTM_EXPORT_LIBRARIES` names, and then no other; where `xlstm-export plugins build`
puts those of this version; the package `xlstm-export-cuda`; this package's own wheel.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from ..cache import cache_folder
from ..errors import ErrorKind, UserError
from ..version import __version__

_log = logging.getLogger(__name__)
TENSORRT_PLUGINS = "libxlstm_tensorrt.so"
TENSORRT_ONLOAD = "libxlstm_tensorrt_onload.so"
"""Registers those when it is opened; lies beside them."""
ONNXRUNTIME_LIBRARY = "libxlstm_onnxruntime.so"
FOLDER_VARIABLE = "XLSTM_EXPORT_LIBRARIES"
CUDA_MODULE, CUDA_PACKAGE = "xlstm_export_cuda", "xlstm-export-cuda"
PREBUILT = Path(__file__).with_name("prebuilt")
"""In a wheel: lib/, bin/ and include/. In a clone, and in a wheel for any machine, it is not there."""


@dataclass(frozen=True)
class Place:
    """A folder of libraries, and who put them there."""

    folder: Path
    origin: str


def places() -> list[Place]:
    """Where libraries are looked for, in this order."""
    if chosen := os.environ.get(FOLDER_VARIABLE):
        return [Place(Path(chosen), FOLDER_VARIABLE)]
    found = [Place(library_folder(), "plugins build")]
    if (spec := importlib.util.find_spec(CUDA_MODULE)) is not None:
        found += [Place(Path(path) / "lib", CUDA_PACKAGE) for path in spec.submodule_search_locations or ()]
    return [*found, Place(PREBUILT / "lib", "wheel")]


def library_folder() -> Path:
    """Where `plugins build` installs. Another version of this package has another folder."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen) if chosen else cache_folder() / "lib" / __version__


def find_place(name: str) -> Place | None:
    """The first place that has `TENSORRT_PLUGINS` or `ONNXRUNTIME_LIBRARY`."""
    return next((place for place in places() if (place.folder / name).is_file()), None)


def find_library(name: str) -> Path | None:
    """One of the names above, if it is here."""
    place = find_place(name)
    _log.debug("%s is %s", name, f"in {place.folder}" if place else "not there: `plugins build` makes it")
    return place.folder / name if place else None


def choose_library(name: str, option: str | None) -> Path | None:
    """The library that a user names, on the command line or in Python: `LIB|none`.

    Args:
        name: one of the names above.
        option: None: the one that is found, if any; `none`: no library; else its path.

    Raises:
        UserError: there is none at that path.
    """
    if option == "none":
        return None
    return find_library(name) if option is None else require_library(name, Path(option))


def require_library(name: str, given: Path | None = None) -> Path:
    """The library `name`, from the path given by the user or from where it is found by default.

    Args:
        name: one of the names above.
        given: a path that the user named; nothing else is tried then.

    Raises:
        UserError: there is none. The message says what was tried.
    """
    tried = [given] if given is not None else [place.folder / name for place in places()]
    for path in tried:
        if path.is_file():
            return path
    why = ""
    if given is None:
        chosen = os.environ.get(FOLDER_VARIABLE)
        why = f" ({FOLDER_VARIABLE} is {chosen})" if chosen else f" ({FOLDER_VARIABLE} is not set)"
    nor = "".join(f", nor is {path}" for path in tried[1:])
    message = f"{tried[0]} is not there{nor}{why}. Build it with `xlstm-export plugins build`."
    raise UserError(ErrorKind.unavailable, message)


def require_prefix() -> Path:
    """The folder with lib/, bin/ and include/ of libxlstm_runtime, for CMake and for shells.

    Raises:
        UserError: this package has none.
    """
    if not PREBUILT.is_dir():
        raise UserError(
            ErrorKind.unavailable,
            "This package holds no compiled C++ library: only wheels for Linux on x86-64 and aarch64 do. Build it with "
            "CMake from `plugins/`, as plugins/runtime/README.md says.",
        )
    return PREBUILT
