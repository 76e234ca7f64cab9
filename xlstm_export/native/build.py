"""Compile the native libraries and put them where they are found by default."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..cache import cache_folder
from ..errors import ErrorKind, UserError
from ..progress import Stage, no_progress
from . import toolchain
from .locate import ONNXRUNTIME_LIBRARY, TENSORRT_PLUGINS, library_folder
from .toolchain import Tool


@dataclass(frozen=True)
class Build:
    """What was built: the installed libraries, and which were left out, each with the reason."""

    libraries: tuple[Path, ...]
    left_out: dict[str, str]
    compiler: Path
    cuda_compiler: Path | None


def build_libraries(
    architectures: str | None = None,
    cuda: bool = True,
    output: Path | None = None,
    source: Path | None = None,
    stage: Stage = no_progress,
) -> Build:
    """Compile the TensorRT plugin and the ONNX Runtime library, and install them.

    Args:
        architectures: GPU architectures such as `86,89,120`, or `native`; None: those of a release.
        cuda: False builds only the ONNX Runtime library, and only its CPU kernels.
        output: folder for the libraries; None: where they are found by default (`native.locate`).
        source: folder of the native sources; None: `plugins` of the clone that this package runs from.
        stage: progress bars.

    Returns:
        What was built. A library whose headers are missing is left out.

    Raises:
        UserError: compilers or all headers are missing, or the compilation failed; says what to do.
    """
    source = _sources(source)
    cmake, cxx = toolchain.cmake().require(), toolchain.cxx_compiler().require()
    nvcc = toolchain.cuda_compiler().require() if cuda else None
    definitions = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CXX_COMPILER": cxx,
        "XLSTM_TESTS": "OFF",
        "XLSTM_CUDA": "ON" if cuda else "OFF",
    }
    if nvcc is not None:
        definitions |= {"CMAKE_CUDA_COMPILER": nvcc, "CMAKE_CUDA_HOST_COMPILER": cxx}
        if architectures is not None:
            definitions["CMAKE_CUDA_ARCHITECTURES"] = parse_architectures(architectures)
    elif architectures is not None:
        raise UserError(ErrorKind.argument, "--cuda-architectures with --no-cuda: leave one of them out.")
    found, left_out = _select_libraries(cuda)
    build_folder = _configure(cmake, source, definitions | found, stage)
    names = [name for name in (ONNXRUNTIME_LIBRARY, TENSORRT_PLUGINS) if name not in left_out]
    _compile(cmake, build_folder, names, stage)
    output = output if output is not None else library_folder()
    return Build(tuple(_install(build_folder / "lib" / name, output) for name in names), left_out, cxx, nvcc)


def parse_architectures(text: str) -> str:
    """`sm86, 89` as CMake's `86-real;89`: machine code for each, PTX of the newest for those to come.

    Raises:
        UserError: not an architecture.
    """
    if text == "native":
        return text
    numbers = []
    for item in text.replace(";", ",").split(","):
        match = re.fullmatch(r"(?:sm_?)?(\d{2,3})[af]?", item.strip())
        if match is None:
            raise UserError(
                ErrorKind.argument,
                f"--cuda-architectures: {item.strip()!r} is not an architecture. Give numbers such as 86,89.",
            )
        numbers.append(int(match[1]))
    *older, newest = sorted(set(numbers))
    return ";".join([*(f"{number}-real" for number in older), str(newest)])


def _sources(given: Path | None) -> Path:
    source = given if given is not None else Path(__file__).resolve().parents[2] / "plugins"
    if not (source / "CMakeLists.txt").is_file():
        raise UserError(
            ErrorKind.unavailable,
            f"the native sources are not at {source}: they come with a clone of the repository, not with an installed "
            "package. Clone it and run `pip install --editable .` there.",
        )
    return source


def _select_libraries(cuda: bool) -> tuple[dict[str, object], dict[str, str]]:
    """CMake's definitions for the libraries whose headers are here, and the others with the reason."""
    definitions: dict[str, object] = {}
    left_out: dict[str, str] = {}

    def select(library: str, switch: str, headers: dict[str, Tool]) -> None:
        missing = [tool for tool in headers.values() if tool.path is None]
        definitions[switch] = "OFF" if missing else "ON"
        if missing:
            left_out[library] = " ".join(f"Not found: {tool.name}. {tool.remedy}" for tool in missing)
        else:
            definitions.update({variable: tool.path for variable, tool in headers.items()})

    headers = {
        "XLSTM_ONNXRUNTIME_INCLUDE_DIR": toolchain.onnxruntime_headers(),
        "XLSTM_HIGHWAY_INCLUDE_DIR": toolchain.highway_headers(),
    }
    select(ONNXRUNTIME_LIBRARY, "XLSTM_ONNXRUNTIME", headers)
    if cuda:
        select(TENSORRT_PLUGINS, "XLSTM_TENSORRT", {"TensorRT_INCLUDE_DIR": toolchain.tensorrt_headers()})
    else:
        definitions["XLSTM_TENSORRT"] = "OFF"
        left_out[TENSORRT_PLUGINS] = "It needs CUDA."
    if len(left_out) == 2:
        raise UserError(ErrorKind.unavailable, "nothing to build: " + " ".join(left_out.values()))
    return definitions, left_out


def _configure(cmake: Path, source: Path, definitions: dict[str, object], stage: Stage) -> Path:
    """A build folder in the cache, kept so that the next build only compiles what changed."""
    stage("Configuring", None)
    ninja = toolchain.ninja().path
    arguments = [f"-D{key}={value}" for key, value in sorted(definitions.items())]
    if ninja is not None:
        arguments += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    key = hashlib.sha256("\n".join([str(source), *arguments]).encode()).hexdigest()[:12]
    folder = cache_folder() / "build" / key
    folder.mkdir(parents=True, exist_ok=True)
    _run([cmake, "-S", source, "-B", folder, *arguments], folder / "configure.log", "CMake could not configure")
    return folder


def _compile(cmake: Path, folder: Path, names: list[str], stage: Stage) -> None:
    advance, done = None, 0

    def watch(line: str) -> None:
        # Ninja prints [3/12], make prints [ 25%].
        nonlocal advance, done
        match = re.match(r"\[\s*(\d+)(?:/(\d+)|%)\]", line)
        if match is None:
            return
        if advance is None:
            advance = stage("Compiling", int(match[2] or 100))
        advance(max(0, int(match[1]) - done))
        done = max(done, int(match[1]))

    stage("Compiling", None)
    targets = [name.removeprefix("lib").removesuffix(".so") for name in names]
    command = [cmake, "--build", folder, "--target", *targets, "--parallel", str(os.cpu_count() or 1)]
    _run(command, folder / "build.log", "the compilation failed", watch)


def _run(command: Iterable[object], log: Path, failure: str, watch: Callable[[str], None] = lambda line: None) -> None:
    """Run a command, its output going to a log file and, line by line, to `watch`."""
    lines: list[str] = []
    arguments = [str(part) for part in command]
    with (
        log.open("w") as file,
        subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        for line in process.stdout:
            file.write(line)
            lines.append(line)
            watch(line)
    if process.returncode != 0:
        raise UserError(
            ErrorKind.runtime,
            f"{failure}; its last lines are below, all of them in {log}\n{''.join(lines[-30:]).rstrip()}",
        )


def _install(library: Path, output: Path) -> Path:
    """Copy in one step, so that a process that has the old library loaded keeps it."""
    output.mkdir(parents=True, exist_ok=True)
    target = output / library.name
    with tempfile.NamedTemporaryFile(dir=output, delete=False) as file:
        temporary = Path(file.name)
    shutil.copyfile(library, temporary)
    temporary.chmod(0o755)
    os.replace(temporary, target)
    return target
