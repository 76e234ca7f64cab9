"""The one driver of CMake: `plugins/` configured and built in a folder of the cache.

A folder belongs to one set of options, is kept so that the next build only compiles what changed, and is used by one
process at a time. What CMake prints goes to logs in it; of a failure, the message shows the end.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from filelock import FileLock

from ..cache import cache_folder
from ..errors import ErrorKind, UserError
from ..progress import Advance, Stage, no_progress
from . import toolchain

_log = logging.getLogger(__name__)

Options = Mapping[str, object]
"""CMake's cache variables; `plugins/CMakeLists.txt` says which."""


def sources() -> Path:
    """The folder of the native sources: of the clone that this package runs from, or inside the installed package."""
    package = Path(__file__).resolve().parent
    installed = package / "sources"
    return installed if installed.is_dir() else package.parents[1] / "plugins"


def header_options(names: Iterable[str], stage: Stage = no_progress) -> dict[str, object]:
    """Options that name the folders of these `toolchain.HEADERS`; what is not here is fetched.

    Raises:
        UserError: some are not here and cannot be fetched.
    """
    found = (toolchain.HEADERS[name] for name in names)
    return {variable: find().obtain(stage) for variable, find in found}


def cuda_options(architectures: str | None = None) -> dict[str, object]:
    """Options to compile CUDA code, for architectures as CMake names them; None: those of a release that nvcc knows.

    Raises:
        UserError: there is no CUDA compiler or no C++ compiler.
    """
    options: dict[str, object] = {
        "XLSTM_CUDA": "ON",
        "CMAKE_CUDA_COMPILER": toolchain.cuda_compiler().require(),
        "CMAKE_CUDA_HOST_COMPILER": toolchain.cxx_compiler().require(),
    }
    return options | ({"CMAKE_CUDA_ARCHITECTURES": architectures} if architectures else {})


def configure(options: Options, stage: Stage = no_progress, source: Path | None = None) -> Path:
    """Configure, and nothing else.

    Args:
        options: what to build and how; the build type is Release and the C++ compiler the toolchain's if not said.
        stage: progress.
        source: another project than `sources()`.

    Returns:
        The build folder; it also holds compile_commands.json.

    Raises:
        UserError: CMake or a compiler is missing, or CMake refused; says what to do, or what CMake said.
    """
    folder, command = _plan(options, source or sources())
    with _lock(folder):
        _configure(folder, command, stage)
    return folder


def build(options: Options, targets: Iterable[str], stage: Stage = no_progress, source: Path | None = None) -> Path:
    """As `configure`; then build the targets. None given: everything.

    Raises:
        UserError: as `configure` does, or the compilation failed.
    """
    folder, command = _plan(options, source or sources())
    with _lock(folder):
        _configure(folder, command, stage)
        _compile(folder, list(targets), stage)
    return folder


def notes(folder: Path) -> list[str]:
    """What our CMake files remarked when this folder was configured."""
    return re.findall("^-- note: (.*)$", (folder / "configure.log").read_text(), re.MULTILINE)


def _plan(options: Options, source: Path) -> tuple[Path, list[object]]:
    """The build folder of these options, and the command that configures it."""
    settings = {"CMAKE_BUILD_TYPE": "Release", "CMAKE_EXPORT_COMPILE_COMMANDS": "ON", **options}
    if "CMAKE_TOOLCHAIN_FILE" not in settings:
        settings.setdefault("CMAKE_CXX_COMPILER", toolchain.cxx_compiler().require())
    arguments = [f"-D{name}={value}" for name, value in sorted(settings.items())]
    if (ninja := toolchain.ninja().path) is not None:
        arguments += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    key = hashlib.sha256("\n".join([str(source), *arguments]).encode()).hexdigest()[:12]
    folder = cache_folder() / "build" / key
    return folder, [toolchain.cmake().require(), "-S", source, "-B", folder, *arguments]


def _lock(folder: Path) -> FileLock:
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_suffix(".lock"))


def _configure(folder: Path, command: list[object], stage: Stage) -> None:
    stage("Configuring", None)
    _run(command, folder / "configure.log", "CMake could not configure")


def _compile(folder: Path, targets: list[str], stage: Stage) -> None:
    advance: Advance | None = None
    done = 0

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
    command = [toolchain.cmake().require(), "--build", folder, "--parallel", os.cpu_count() or 1]
    command += ["--target", *targets] if targets else []
    _run(command, folder / "build.log", "the compilation failed", watch)


def _run(command: Iterable[object], log: Path, failure: str, watch: Callable[[str], None] = lambda line: None) -> None:
    """Run a command, its output going to a log file and, line by line, to `watch`."""
    lines: list[str] = []
    arguments = [str(part) for part in command]
    _log.debug("%s", shlex.join(arguments))
    with (
        log.open("w") as file,
        subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdout is not None  # it is a pipe
        for line in process.stdout:
            _log.debug("%s", line.rstrip())
            file.write(line)
            lines.append(line)
            watch(line)
    if process.returncode != 0:
        raise UserError(
            ErrorKind.runtime,
            f"{failure}; its last lines are below, all of them in {log}\n{''.join(lines[-30:]).rstrip()}",
        )
