"""A C++ compiler whose results run on Linux systems of 2018 and newer: glibc 2.28, the libstdc++ of GCC 8.

The compiler is the clang of the pip package `ziglang`, which links against any glibc that it has the symbols of. The
C++ library is GCC's, for std::string crosses the interface of libxlstm_runtime and programs that use it come from g++.
What the libstdc++.so.6 of that time has is taken from the system when the library is loaded: what one throws the other
catches, so there has to be one of it. What came later is linked in from the static one. RHEL's newer compilers do the
same.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

GLIBC = (2, 28)
_OLDEST = {"GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11)}  # of GCC 8, which systems with that glibc have
_SYMBOL = re.compile(r"(\d+|0x[0-9a-f]+) +(FUNC|OBJECT) .* (\S+)@@(GLIBCXX|CXXABI)_([\d.]+)$", re.MULTILINE)

# libstdc++ asks glibc 2.32 and newer whether there is one thread alone, and saves atomic operations there. Here: no.
_THREADS = """.data
.globl __libc_single_threaded
.hidden __libc_single_threaded
.type __libc_single_threaded, %object
.size __libc_single_threaded, 1
__libc_single_threaded: .byte 0
"""

# CMake has the compiler preprocess a file with "-o -", for which zig writes a file of that name where it is called.
_SCRIPT = """#!/bin/sh
count=$#
while [ $count -gt 0 ]; do
  if [ "$1" = -o ] && [ "$2" = - ]; then
    shift 2
    count=$((count - 2))
  else
    set -- "$@" "$1"
    shift
    count=$((count - 1))
  fi
done
exec {call} "$@"
"""


@dataclass(frozen=True)
class Compiler:
    """For one processor.

    Attributes:
        machine: `x86_64` or `aarch64`.
        program: the script to call as the C++ compiler.
        libraries: what it is to be given at the end of a link, instead of a C++ library of its own.
    """

    machine: str
    program: Path
    libraries: tuple[Path, ...]

    def options(self) -> dict[str, object]:
        """CMake's cache variables to compile with it, for that processor, and without debugging symbols."""
        return {
            "CMAKE_SYSTEM_NAME": "Linux",
            "CMAKE_SYSTEM_PROCESSOR": self.machine,
            "CMAKE_CXX_COMPILER": self.program,
            "CMAKE_TRY_COMPILE_TARGET_TYPE": "STATIC_LIBRARY",  # else CMake links with the C++ library that zig has
            "CMAKE_AR": shutil.which(run(gcc(self.machine), "-print-prog-name=ar").strip()),
            "CMAKE_RANLIB": shutil.which(run(gcc(self.machine), "-print-prog-name=ranlib").strip()),
            "CMAKE_CXX_STANDARD_LIBRARIES": " ".join(["-nostdlib++", *map(str, self.libraries)]),
            "CMAKE_SHARED_LINKER_FLAGS": "-s -Wl,--no-undefined",
            "CMAKE_EXE_LINKER_FLAGS": "-s",
            "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
        }


def gcc(machine: str) -> str:
    """The name of the g++ for that processor, whose C++ library is taken."""
    return "g++" if machine == "x86_64" else f"{machine}-linux-gnu-g++"


def make_compiler(machine: str, folder: Path) -> Compiler:
    """Write the compiler's script and the old libstdc++.so.6 to link against into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    search = run(gcc(machine), "-E", "-x", "c++", "-v", "/dev/null")
    listed = search.partition("#include <...> search starts here:")[2].partition("End of search list.")[0]
    headers = [Path(line.strip()).resolve() for line in listed.splitlines() if "c++" in line]
    target = ["-target", f"{machine}-linux-gnu.{GLIBC[0]}.{GLIBC[1]}"]
    call = [sys.executable, "-m", "ziglang", "c++", *target, "-nostdinc++", *(f"-I{path}" for path in headers)]
    program = folder / f"clang++-{machine}"
    program.write_text(_SCRIPT.format(call=shlex.join(call)))
    program.chmod(0o755)
    newest, *others = (
        Path(run(gcc(machine), f"-print-file-name={name}").strip()).resolve()
        for name in ("libstdc++.so", "libstdc++.a", "libgcc.a", "libgcc_s.so.1")
    )
    (folder / "threads.s").write_text(_THREADS)
    run(program, "-c", folder / "threads.s", "-o", folder / "threads.o")
    return Compiler(machine, program, (folder / "threads.o", _old_library(newest, program, folder), *others))


def _old_library(newest: Path, compiler: Path, folder: Path) -> Path:
    """A libstdc++.so.6 with the symbols of `_OLDEST` and nothing behind them, to link against."""
    versions: dict[str, list[str]] = {}
    lines = [".data"]
    for size, kind, name, family, number in _SYMBOL.findall(run("readelf", "--wide", "--dyn-syms", newest)):
        if tuple(map(int, number.split("."))) <= _OLDEST[family]:
            versions.setdefault(f"{family}_{number}", []).append(name)
            is_a = "function" if kind == "FUNC" else "object"
            lines += [f".globl {name}", f".type {name}, %{is_a}", f".size {name}, {int(size, 0)}", f"{name}: .byte 0"]
    script = (f"{version} {{ global: {'; '.join(names)}; }};" for version, names in versions.items())
    (folder / "versions.map").write_text("\n".join(script) + "\n")
    (folder / "symbols.s").write_text("\n".join(lines) + "\n")
    library = folder / "libstdc++.so.6"
    how = ["-shared", "-nostdlib", "-nostdlib++", f"-Wl,-soname,{library.name}"]
    how += [f"-Wl,--version-script={folder / 'versions.map'}"]
    run(compiler, *how, folder / "symbols.s", "-o", library)
    return library


def run(*command: object) -> str:
    """What a command printed; its failure ends the program."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr
