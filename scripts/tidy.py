#!/usr/bin/env python3
"""Run clang-tidy over the C++ sources of plugins/ that compile without a GPU; .clang-tidy says what it looks for.

scripts/tidy.py [FILE ...]        all of them, or only these
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xlstm_export.errors import UserError
from xlstm_export.native import cmake

# Of what is compiled for several: one is enough for what it looks for, and takes a third of the time.
ONE_INSTRUCTION_SET = ["--extra-arg=-DHWY_COMPILE_ONLY_STATIC"]
if platform.machine() == "x86_64":
    ONE_INSTRUCTION_SET.append("--extra-arg=-march=x86-64-v3")  # AVX2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    chosen = {path.resolve() for path in parser.parse_args().files}
    try:
        folder, files = compile_commands()
    except UserError as error:
        sys.exit(f"error: {error}")

    def tidy(path: Path) -> str:
        command = ["clang-tidy", "--quiet", "-p", str(folder), *ONE_INSTRUCTION_SET, str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else done.stdout + done.stderr + "\n"

    selected = [path for path in files if not chosen or path in chosen]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        findings = [text for text in pool.map(tidy, selected) if text.strip()]
    print("".join(findings), end="")
    print(f"clang-tidy: findings in {len(findings)} of {len(selected)} files")
    sys.exit(1 if findings else 0)


def compile_commands() -> tuple[Path, list[Path]]:
    """A folder with compile_commands.json, in which a shared source stands once, and the sources."""
    headers = cmake.header_options(["onnxruntime", "highway", "tensorrt", "json"])
    build = cmake.configure({"XLSTM_BUILD_ORT_OPERATORS": "ON", "XLSTM_BUILD_TESTS": "ON", **headers})
    entries = json.loads((build / "compile_commands.json").read_text())
    once = {Path(entry["file"]).resolve(): entry for entry in entries}
    folder = build / "tidy"
    folder.mkdir(exist_ok=True)
    (folder / "compile_commands.json").write_text(json.dumps(list(once.values())))
    return folder, sorted(once, key=lambda path: -path.stat().st_size)  # the long ones first, to share the cores well


if __name__ == "__main__":
    main()
