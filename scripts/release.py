#!/usr/bin/env python3
"""Make the wheels of a release, with native libraries inside for Linux with glibc 2.28 and newer, and try them out.

    scripts/release.py build --output DIR              xlstm-export, for x86-64 and aarch64
    scripts/release.py build --output DIR --cuda       xlstm-export-cuda too, for x86-64
    scripts/release.py check DIR bundles/kjv           install them into bare environments and run a bundle
    scripts/release.py emulate                         run the test of the CPU kernels for aarch64 under qemu-user

`build` needs `pip install -e '.[release]'`, and g++, g++-aarch64-linux-gnu and binutils of Debian or Ubuntu; nothing of
this machine's system goes into the wheels but GCC's static C++ library. `check` needs Python 3.10 to 3.13, on PATH or
where pyenv has them, and the bundle that scripts/demo.sh makes; `emulate` needs qemu-user.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from wheels import native, try_out
from wheels.pack import CUDA_PROJECT, ROOT, pack

from xlstm_export.cache import cache_folder
from xlstm_export.errors import UserError

SCRATCH = cache_folder() / "build" / "release"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="compile, and pack wheels")
    build.add_argument("--output", type=Path, required=True, metavar="DIR", help="where to put the wheels")
    build.add_argument("--machine", choices=native.MACHINES, action="append", help="for this processor only")
    build.add_argument("--cuda", action="store_true", help="also the wheel with CUDA, for x86-64")
    build.add_argument("--target", metavar="SM,...", help="its GPU architectures; without it, those of a release")
    check = commands.add_parser("check", help="install wheels and run a bundle")
    check.add_argument("wheels", type=Path, metavar="DIR", help="the folder with the wheels")
    check.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle of models/kjv")
    check.add_argument("--python", action="append", choices=try_out.PYTHONS, help="with this one only")
    commands.add_parser("emulate", help="test the CPU kernels for aarch64")
    options = parser.parse_args()
    try:
        if options.command == "build":
            build_wheels(options.output.resolve(), options.machine or native.MACHINES, options.cuda, options.target)
        elif options.command == "check":
            try_out.check(options.wheels.resolve(), options.bundle.resolve(), options.python or try_out.PYTHONS)
        else:
            print(native.emulate_cpu_kernels(SCRATCH), end="")
    except UserError as error:
        sys.exit(f"error: {error}")


def build_wheels(output: Path, machines: tuple[str, ...], cuda: bool, target: str | None) -> None:
    """Each wheel is examined as soon as it is there."""
    for machine in machines:
        pack(ROOT, native.build_for_cpu(machine, SCRATCH), machine, output)
    if cuda:
        targets = target.split(",") if target else ()
        pack(CUDA_PROJECT, native.build_for_cuda(targets, SCRATCH), "x86_64", output)


if __name__ == "__main__":
    main()
