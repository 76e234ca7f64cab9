"""`xlstm-export plugins`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import err, out, progress

plugins = typer.Typer(help="Native kernels: the TensorRT plugin and the ONNX Runtime custom-op library.")


@plugins.command("build")
def plugins_build(
    target: Annotated[
        str | None,
        typer.Option(
            metavar="SM,...",
            help="GPU architectures (sm86,sm89), or `current`; those of a release that nvcc knows when not given.",
        ),
    ] = None,
    no_cuda: Annotated[bool, typer.Option("--no-cuda", help="Build only the CPU kernels, for ONNX Runtime.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="The folder for the libraries. By default the user cache."),
    ] = None,
) -> None:
    """Compile the libraries and install them where they are found by default. Headers that are missing are fetched."""
    from .native.build import build_libraries

    with progress() as stage:
        result = build_libraries(target.split(",") if target else (), not no_cuda, output, stage)
    for note in result.notes:
        err.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    for library in result.libraries:
        out.print(f"Built {library}", highlight=False, soft_wrap=True)
    for name, reason in result.left_out.items():
        out.print(f"Left out {name}: {reason}", highlight=False, soft_wrap=True)


@plugins.command("check")
def plugins_check(
    library: Annotated[
        Path | None, typer.Argument(metavar="LIB", help="The plugin library. By default the one that is found.")
    ] = None,
) -> None:
    """Load the TensorRT plugin into every registry that is installed. Exit code 1 when one does not take it."""
    from .native.check import check_library, render
    from .native.locate import TENSORRT_PLUGINS, require_library

    check = check_library(require_library(TENSORRT_PLUGINS, library))
    out.print(render(check), soft_wrap=True)
    raise typer.Exit(0 if check.passed else 1)


@plugins.command("prefix")
def plugins_prefix() -> None:
    """Print the folder of the C++ library: its programs in bin/, and what CMAKE_PREFIX_PATH is to name."""
    from .native.locate import require_prefix

    out.print(str(require_prefix()), highlight=False, markup=False, soft_wrap=True)
