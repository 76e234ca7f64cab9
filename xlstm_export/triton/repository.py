"""Writes a model repository: one folder for each model, with a configuration and a version."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from ..bundle import Bundle
from ..bundle.destination import check_destination, new_folder
from ..errors import ErrorKind, UserError
from ..progress import Stage, no_progress
from .config import Backend
from .layouts import VERSION, Layout, write_onnxruntime, write_python, write_tensorrt
from .pbtxt import render

BACKENDS: tuple[Backend, ...] = get_args(Backend)
CONFIG = "config.pbtxt"


@dataclass(frozen=True)
class Repository:
    """What was written."""

    model: Path
    """The model's folder."""
    command: str
    """What starts a server of it, for a shell."""


def write_repository(
    bundle: Bundle,
    repository: Path,
    backend: Backend,
    *,
    name: str | None = None,
    sequences: int = 64,
    custom_ops: Path | None = None,
    overwrite: bool = False,
    stage: Stage = no_progress,
) -> Repository:
    """Write a bundle into a model repository of Triton, as one model.

    Args:
        repository: its folder; it may hold other models, and is made where it is not there.
        backend: which of Triton's back ends runs the model. `onnxruntime` and `tensorrt` keep its states themselves;
            `python` runs this package.
        name: of the model; None: the bundle's folder's.
        sequences: the most at a time.
        custom_ops: our kernels for ONNX Runtime; None runs the cells' definitions.
        overwrite: replace a model of this name.
        stage: told of the progress.

    Raises:
        UserError: the bundle is not whole, the back end cannot serve it, or the folder is in the way. Nothing is left
            behind.
    """
    name = bundle.path.resolve().name if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):  # it stands in addresses, and in files' names
        raise UserError(
            ErrorKind.argument,
            f"A model cannot be called {name!r}: letters, digits, `_`, `.` and `-` will do. Name it with --name.",
        )
    if sequences < 1:
        raise UserError(ErrorKind.argument, f"{sequences} sequences: give 1 or more.")
    model = repository / name
    check_destination(model, overwrite, CONFIG, "model of Triton", "another --name")
    bundle.require_complete()
    with new_folder(model) as folder:
        tick = stage("Writing the model", None)
        version = folder / VERSION
        version.mkdir()
        if backend == "tensorrt":
            layout = write_tensorrt(bundle, name, sequences, version)
        elif backend == "onnxruntime":
            layout = write_onnxruntime(bundle, name, sequences, custom_ops, version)
        else:
            layout = write_python(bundle, name, sequences, custom_ops, version)
        (folder / CONFIG).write_text(render(layout.config), "utf-8")
        tick(1)
    return Repository(model, _command(repository, model / VERSION, layout))


def _command(repository: Path, version: Path, layout: Layout) -> str:
    folder = shlex.quote(str(version.resolve()))
    words = [f'LD_LIBRARY_PATH={folder}:"$LD_LIBRARY_PATH"'] if layout.searched else []
    words += ["tritonserver", f"--model-repository={shlex.quote(str(repository.resolve()))}"]
    words += [f"--backend-config=tensorrt,plugins={folder}/{layout.plugins}"] if layout.plugins else []
    return " ".join(words)
