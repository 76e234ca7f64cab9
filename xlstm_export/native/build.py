"""Compile the native libraries and put them where they are found by default."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ErrorKind, UserError
from ..nvidia.capabilities import CURRENT, capability_number, parse_capabilities
from ..progress import Stage, no_progress
from . import cmake, toolchain
from .locate import ONNXRUNTIME_LIBRARY, TENSORRT_ONLOAD, TENSORRT_PLUGINS, library_folder

# The option that builds a library, and the headers it needs.
_LIBRARIES = {
    ONNXRUNTIME_LIBRARY: ("XLSTM_BUILD_ORT_OPERATORS", ("onnxruntime", "highway")),
    TENSORRT_PLUGINS: ("XLSTM_BUILD_TRT_PLUGIN", ("tensorrt",)),
    TENSORRT_ONLOAD: ("XLSTM_BUILD_TRT_PLUGIN", ("tensorrt",)),
}


@dataclass(frozen=True)
class Build:
    """What was built: the installed libraries, and which were left out, each with the reason."""

    libraries: tuple[Path, ...]
    left_out: dict[str, str]
    notes: tuple[str, ...]
    """What had to be fetched, and what of a release's architectures the CUDA compiler does not know."""


def build_libraries(
    targets: Iterable[str] = (), cuda: bool = True, output: Path | None = None, stage: Stage = no_progress
) -> Build:
    """Compile the TensorRT plugin and the ONNX Runtime library, and install them. Headers that are missing are fetched.

    Args:
        targets: GPU architectures such as `sm86`, or `current`; none: those of a release that nvcc knows.
        cuda: False builds only the ONNX Runtime library, and only its CPU kernels.
        output: folder for the libraries; None: where they are found by default (`native.locate`).
        stage: progress bars.

    Returns:
        What was built. A library whose headers can neither be found nor fetched is left out.

    Raises:
        UserError: compilers or all headers are missing, or the compilation failed; says what to do.
    """
    architectures = cuda_architectures(targets)
    if architectures is not None and not cuda:
        raise UserError(ErrorKind.argument, "--target with --no-cuda: leave one of them out.")
    options: dict[str, object] = {"XLSTM_BUILD_RUNTIME": "OFF"}
    if cuda:
        options |= cmake.cuda_options(architectures)
    left_out: dict[str, str] = {}
    notes: list[str] = []
    for library, (switch, headers) in _LIBRARIES.items():
        if library != ONNXRUNTIME_LIBRARY and not cuda:
            left_out[library] = "It needs CUDA."
            continue
        missing = [tool.package for name in headers if (tool := toolchain.HEADERS[name][1]()).path is None]
        try:
            options |= cmake.header_options(headers, stage) | {switch: "ON"}
        except UserError as error:
            left_out[library] = str(error)
        else:
            notes += [f"{p.title} were not here and come from {p.source}: {p.folder}" for p in missing if p]
    built = [name for name in _LIBRARIES if name not in left_out]
    if not built:
        raise UserError(ErrorKind.unavailable, "nothing to build:\n" + "\n".join(left_out.values()))
    folder = cmake.build(options, [name.removeprefix("lib").removesuffix(".so") for name in built], stage)
    notes += cmake.notes(folder)
    output = output if output is not None else library_folder()
    return Build(tuple(_install(folder / "lib" / name, output) for name in built), left_out, tuple(notes))


def cuda_architectures(targets: Iterable[str]) -> str | None:
    """`sm86`, `sm89` as CMake's `86-real;89`: machine code for each, PTX of the newest for those to come.

    None: no target was given.

    Raises:
        UserError: not a compute capability.
    """
    names = parse_capabilities(targets)
    if names == [CURRENT]:
        return "native"
    numbers = [str(capability_number(name)) for name in names]
    return ";".join([*(f"{number}-real" for number in numbers[:-1]), numbers[-1]]) if numbers else None


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
