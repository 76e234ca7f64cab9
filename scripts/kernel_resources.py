#!/usr/bin/env python3
"""What the CUDA kernels take of a multiprocessor, as compiled: registers, spills, shared memory.

    scripts/kernel_resources.py                      compile for every architecture of a release, write the table
    scripts/kernel_resources.py --check LIBRARY...   hold libraries (of some architectures) against the table

A kernel has a row for its shape; of its types the most demanding counts. Spilled bytes are stack that ptxas reports.
Warps: how many of a multiprocessor's registers allow, which with shared memory decides how many blocks it holds.
`--check` fails for a kernel that the table lacks, for one that spills more than there, and for one of fewer warps.
Another release of nvcc than the table's has some slack: 64 bytes, and a quarter of the warps.
Needs `cuobjdump` (pip install nvidia-cuda-cuobjdump).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xlstm_export.native import cmake
from xlstm_export.native.locate import TENSORRT_PLUGINS
from xlstm_export.native.toolchain import cuda_compiler, cuobjdump

RUNTIME = "libxlstm_runtime.so"
TABLE = Path(__file__).resolve().parents[1] / "docs" / "kernel-resources.md"
INTRODUCTION = """# What the CUDA kernels take

Written by `scripts/kernel_resources.py`, which says what is counted. In each cell: registers of a thread; warps that
the registers allow on a multiprocessor; bytes spilled, where there are any. Static shared memory in bytes; what a
launch asks for besides depends on its sizes. A kernel of 4 registers is empty: that architecture takes another one.
Compiled with CUDA {cuda}; nothing here was measured on a GPU.
"""
REGISTERS = 65536  # of a multiprocessor, on all architectures
MOST_WARPS = {75: 32, 80: 64, 86: 48, 87: 48, 89: 48, 90: 64, 100: 64, 110: 48, 120: 48}


@dataclass(frozen=True)
class Use:
    """Of one kernel on one architecture."""

    registers: int
    spilled: int
    shared: int

    def warps(self, architecture: int) -> int:
        """Registers are given to a warp in units of 256."""
        return min(MOST_WARPS[architecture], REGISTERS // (-(-32 * self.registers // 256) * 256))

    def worse_of(self, other: Use) -> Use:
        return Use(
            max(self.registers, other.registers), max(self.spilled, other.spilled), max(self.shared, other.shared)
        )


Uses = dict[str, dict[int, Use]]
"""By kernel, then by architecture."""


def read_libraries(libraries: Iterable[Path]) -> Uses:
    """All kernels of some libraries."""
    return {name: uses for library in libraries for name, uses in read_library(library).items()}


def read_library(library: Path) -> Uses:
    """The kernels of a library, as cuobjdump lists them."""
    command = [cuobjdump().require(), "--dump-resource-usage", library]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)
    uses: Uses = {}
    architecture, name = 0, ""
    for line in demangle(listing.stdout).splitlines():
        if match := re.match(r"arch = sm_(\d+)", line):
            architecture = int(match[1])
        elif match := re.match(r" Function (.*):$", line):
            name = shape_of(match[1])
        elif match := re.match(r"  REG:(\d+) STACK:(\d+) SHARED:(\d+)", line):
            use = Use(*map(int, match.groups()))
            by_architecture = uses.setdefault(name, {})
            by_architecture[architecture] = use.worse_of(by_architecture.get(architecture, use))
    return uses


def compiler_version() -> str:
    """Of the nvcc that is found here, such as `13.0.88`."""
    said = subprocess.run([cuda_compiler().require(), "--version"], capture_output=True, text=True, check=True)
    return re.search(r"V(\d+\.\d+\.\d+)", said.stdout)[1]


def demangle(text: str) -> str:
    return subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True).stdout


def shape_of(function: str) -> str:
    """`void xlstm::cuda::some_kernel<float, __half, 4, 8>(Args, ...)` as `some_kernel 4, 8`: the types left out."""
    match = re.match(r"(?:void )?(?:[\w()]+(?: \w+\))?::)*(\w+)(?:<(.*)>)?\(", function)
    if match is None:
        sys.exit(f"error: {function} is not the name of a kernel")
    numbers = re.findall(r"(?:^|, )(?:\(\w+\))?(\d+|true|false)(?=,|$)", match[2] or "")
    return " ".join([match[1], ", ".join(numbers)]).strip()


def write_table(page: Path, uses: Uses, cuda: str) -> None:
    architectures = sorted({a for by_architecture in uses.values() for a in by_architecture})
    lines = [
        INTRODUCTION.format(cuda=cuda),
        "| kernel | shared | " + " | ".join(f"sm_{a}" for a in architectures) + " |",
        "| --- | ---: |" + " ---: |" * len(architectures),
    ]
    for name, by_architecture in sorted(uses.items()):
        shared = max(use.shared for use in by_architecture.values())
        lines.append(
            f"| `{name}` | {shared} | " + " | ".join(map(cell, by_architecture, by_architecture.values())) + " |"
        )
    page.write_text("\n".join(lines) + "\n")


def cell(architecture: int, use: Use) -> str:
    spilled = f", **{use.spilled} B**" if use.spilled else ""
    return f"{use.registers}, {use.warps(architecture)}{spilled}"


def read_table(page: Path) -> dict[str, dict[int, tuple[int, int]]]:
    """Warps and spilled bytes, by kernel and architecture."""
    header, _, *rows = [line.strip("|").split("|") for line in page.read_text().splitlines() if line.startswith("|")]
    architectures = [int(title.strip().removeprefix("sm_")) for title in header[2:]]
    table = {}
    for name, _, *cells in rows:
        numbers = [re.match(r" *(\d+), (\d+)(?:, \*\*(\d+) B\*\*)?", text) for text in cells]
        pairs = [(int(n[2]), int(n[3] or 0)) for n in numbers if n]
        table[name.strip(" `")] = dict(zip(architectures, pairs, strict=True))
    return table


def check(uses: Uses, page: Path) -> list[str]:
    """What is worse than the table says, or is not in it."""
    table, problems = read_table(page), []
    same_compiler = f"Compiled with CUDA {compiler_version()};" in page.read_text()
    slack_bytes, least_share = (0, 1) if same_compiler else (64, 0.75)
    for name, by_architecture in sorted(uses.items()):
        for architecture, use in by_architecture.items():
            if architecture not in table.get(name, {}):
                problems.append(f"{name} for sm_{architecture} is not in {page.name}")
                continue
            warps, spilled = table[name][architecture]
            if use.spilled > spilled + slack_bytes:
                problems.append(f"{name} spills {use.spilled} bytes on sm_{architecture}, {spilled} in {page.name}")
            if use.warps(architecture) < least_share * warps:
                problems.append(f"{name}: {use.warps(architecture)} warps on sm_{architecture}, {warps} in {page.name}")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, nargs="+", metavar="LIBRARY")
    parser.add_argument("--table", type=Path, default=TABLE, metavar="FILE", help="default: docs/kernel-resources.md")
    options = parser.parse_args()
    page = options.table
    if options.check:
        uses = read_libraries(options.check)
        problems = check(uses, page) or ([] if uses else ["there are no kernels in it"])
        sys.exit("\n".join(problems) or print(f"{len(uses)} kernels are within {page.name}"))
    settings = {"XLSTM_RUNTIME_TRT": "ON", "XLSTM_BUILD_TRT_PLUGIN": "ON"}
    settings |= cmake.cuda_options() | cmake.header_options(["tensorrt", "json"])
    folder = cmake.build(settings, ["xlstm_tensorrt", "xlstm_runtime"]) / "lib"
    uses = read_libraries([folder / TENSORRT_PLUGINS, folder / RUNTIME])
    write_table(page, uses, compiler_version())
    print(page)


if __name__ == "__main__":
    main()
