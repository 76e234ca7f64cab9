#!/usr/bin/env python3
"""Fetch the TensorRT headers that the plugin library is compiled against, where TensorRT is not installed.

    scripts/fetch_tensorrt_headers.py [--output DIR]

They come (Apache-2.0) out of the small wheel `kernel-lens`, with pip, so from the package index that this machine's own
pip is set up with; nothing is installed, no code of the wheel is run. The folder is printed; `xlstm-export plugins
build` finds it where it is put by default. A TensorRT installation of your own is better: it is looked for first.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "kernel-lens==2.0.1"
INSIDE = "kernel_lens/include/tensorrt/"
NEEDED = {
    "NvInferRuntime.h",
    "NvInferRuntimeBase.h",
    "NvInferRuntimeCommon.h",
    "NvInferPluginBase.h",
    "NvInferVersion.h",
}


def default_output() -> Path:
    """As xlstm_export.native.toolchain.headers_folder, which looks there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "xlstm-export" / "include" / "tensorrt"


def download(folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(folder),
        WHEEL,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        sys.exit(f"error: pip could not download {WHEEL}: {done.stderr.strip()}")
    return wheels[0]


def extract(wheel: Path, output: Path) -> str:
    """The headers of the wheel into `output`, all or none; the TensorRT version they are of."""
    with zipfile.ZipFile(wheel) as archive:
        files = {name[len(INSIDE) :]: archive.read(name) for name in archive.namelist() if name.startswith(INSIDE)}
    headers = {name: data for name, data in files.items() if re.fullmatch(r"\w+\.h", name)}
    if missing := NEEDED - headers.keys():
        sys.exit(f"error: {wheel.name} holds no {', '.join(sorted(missing))} under {INSIDE}")
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=output.parent))
    for name, data in headers.items():
        (staging / name).write_bytes(data)
    staging.chmod(0o755)
    shutil.rmtree(output, ignore_errors=True)
    staging.rename(output)
    version = headers["NvInferVersion.h"].decode()
    parts = [re.search(rf"TRT_{part}_ENTERPRISE (\d+)", version) for part in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(part[1] for part in parts if part) or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=default_output(), help="folder for the headers")
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        version = extract(download(Path(folder)), output)
    print(f"TensorRT {version} headers:", file=sys.stderr)
    print(output)


if __name__ == "__main__":
    main()
