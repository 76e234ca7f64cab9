"""Where the native libraries are found without being named on the command line.

`xlstm-export plugins build` puts them in a folder of the user's cache. `XLSTM_EXPORT_LIBRARIES` names another folder.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ..cache import cache_folder
from ..errors import ErrorKind, UserError

_log = logging.getLogger(__name__)
TENSORRT_PLUGINS = "libxlstm_tensorrt.so"
TENSORRT_ONLOAD = "libxlstm_tensorrt_onload.so"
"""Registers those when it is opened; lies beside them."""
ONNXRUNTIME_LIBRARY = "libxlstm_onnxruntime.so"
FOLDER_VARIABLE = "XLSTM_EXPORT_LIBRARIES"


def library_folder() -> Path:
    """Where `plugins build` installs, and where libraries are looked for."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen) if chosen else cache_folder() / "lib"


def find_library(name: str) -> Path | None:
    """one of the names above, if it was built."""
    path = library_folder() / name
    _log.debug("%s is %s", path, "there" if path.is_file() else "not there: `plugins build` makes it")
    return path if path.is_file() else None


def choose_library(name: str, option: str | None) -> Path | None:
    """The library that an option of the command line names, `LIB|none`.

    Args:
        name: one of the names above.
        option: None: the one that was built, if any; `none`: no library; else its path.

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
    tried = given if given is not None else library_folder() / name
    if tried.is_file():
        return tried
    why = ""
    if given is None:
        chosen = os.environ.get(FOLDER_VARIABLE)
        why = f" ({FOLDER_VARIABLE} is {chosen})" if chosen else f" ({FOLDER_VARIABLE} is not set)"
    raise UserError(ErrorKind.unavailable, f"{tried} is not there{why}. Build it with `xlstm-export plugins build`.")
