"""The public C and C++ headers, read by Doxygen for Breathe. What Doxygen finds wrong in a comment fails the build."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from sphinx.errors import ConfigError

HEADERS = Path("plugins", "include", "xlstm")


def read_headers(root: Path, folder: Path) -> Path:
    """Write Doxygen's XML of the headers into a folder, anew.

    Args:
        root: the repository.
        folder: where to write.

    Returns:
        The folder of the XML.

    Raises:
        ConfigError: there is no Doxygen here.
    """
    if shutil.which("doxygen") is None:
        raise ConfigError(
            "doxygen is not here, which reads the C++ headers: install the system's package of that name."
        )
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "PROJECT_NAME": "xlstm",
        "INPUT": root / HEADERS,
        "OUTPUT_DIRECTORY": folder,
        "GENERATE_XML": "YES",
        "GENERATE_HTML": "NO",
        "GENERATE_LATEX": "NO",
        "EXTRACT_ALL": "YES",
        "MACRO_EXPANSION": "YES",
        "EXPAND_ONLY_PREDEF": "YES",
        "PREDEFINED": "XLSTM_API= XLSTM_C_API=",
        "AUTOLINK_SUPPORT": "NO",
        "QUIET": "YES",
        "WARN_AS_ERROR": "FAIL_ON_WARNINGS",
    }
    doxyfile = "".join(f"{key} = {value}\n" for key, value in options.items())
    subprocess.run(["doxygen", "-"], input=doxyfile, text=True, check=True)
    return folder / "xml"
