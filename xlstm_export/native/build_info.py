"""What a native library says of itself: with which versions of what it was built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ..errors import ErrorKind, UserError

_FUNCTIONS = ("xlstm_tensorrt_build_info", "xlstm_onnxruntime_build_info")
_PROGRAM = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
found = [getattr(library, name) for name in sys.argv[2:] if hasattr(library, name)]
if not found:
    sys.exit(f"it has none of {', '.join(sys.argv[2:])}")
found[0].restype = ctypes.c_char_p
print(found[0]().decode())
"""
_TIMEOUT_S = 30


def build_info(library: Path) -> dict[str, str]:
    """Versions by name: `xlstm`; `tensorrt_headers` or `onnxruntime_headers`; `cuda`, where it has CUDA kernels.

    The library is opened in a process of its own: it may be anything.

    Raises:
        UserError: it cannot be opened here, or is none of ours.
    """
    command = [sys.executable, "-c", _PROGRAM, str(library), *_FUNCTIONS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise UserError(ErrorKind.unavailable, f"{library} did not open within {_TIMEOUT_S} s.") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(ErrorKind.unavailable, f"{library} is not a library of xlstm-export that opens here: {reason}")
    pairs = (item.partition("=") for item in done.stdout.strip().split("; "))
    return {key: value for key, _, value in pairs if key != "architectures"}
