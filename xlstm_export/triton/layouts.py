"""What lies in a model's folder, for each of Triton's back ends."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..bundle import Bundle
from ..bundle.manifest import BYTE_TOKENIZER, FILE_NAME, MODEL_FILE, StateTensor, TensorSpec
from ..errors import ErrorKind, UserError
from ..native.locate import ONNXRUNTIME_LIBRARY, TENSORRT_ONLOAD, TENSORRT_PLUGINS, require_library
from ..runtime.generation import require_logits
from .config import Interface, model_config, paired, pairs_in_order, python_config

VERSION = "1"
"""The folder of the one version that is written, below the model's."""
BUNDLE = "bundle"
"""The folder of the bundle, below the version's; for the Python back end."""
_MODEL = """from xlstm_export.triton.python_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""


@dataclass(frozen=True)
class Layout:
    """A model's folder: the configuration, and how a server is told of the libraries that lie there."""

    config: dict[str, Any]
    searched: bool = False
    """Whether the server has to look for libraries in the version's folder (LD_LIBRARY_PATH)."""
    plugins: str | None = None
    """The library of the version's folder that TensorRT's back end has to open."""


def write_onnxruntime(bundle: Bundle, name: str, sequences: int, library: Path | None, folder: Path) -> Layout:
    """The graph and its weights. Where the names of the states would not pair, the graph has others for the outputs.

    Args:
        library: our kernels; None: the cells' definitions.
        folder: the version's.
    """
    manifest = bundle.manifest
    _refuse_narrow_states(bundle)
    states = manifest.states
    if pairs_in_order(states):
        shutil.copyfile(bundle.model_file, folder / MODEL_FILE)
    else:
        states = tuple(map(paired, states))
        _write_renamed(bundle, dict(zip((s.output for s in manifest.states), states, strict=True)), folder / MODEL_FILE)
    _copy(bundle, manifest.weight_files, folder)
    max_batch = sequences if manifest.batch is None else None
    config = model_config(name, "onnxruntime", _interface(bundle, states), sequences, max_batch)
    if library is None:
        return Layout(config)
    shutil.copyfile(require_library(ONNXRUNTIME_LIBRARY, library), folder / ONNXRUNTIME_LIBRARY)
    # The name alone, which the loader looks for in LD_LIBRARY_PATH: a path would be the server's, wherever the
    # repository lies there (onnxruntime_backend, `ModelState::LoadModel` in onnxruntime.cc: RegisterCustomOpsLibrary).
    config["model_operations"] = {"op_library_filename": [ONNXRUNTIME_LIBRARY]}
    return Layout(config, searched=True)


def write_tensorrt(bundle: Bundle, name: str, sequences: int, folder: Path) -> Layout:
    """The bundle's newest engine that fits, and the plugins that it needs.

    Raises:
        UserError: there is none, its least batch is above 1, or Triton would not pair its states.
    """
    engine = bundle.find_engine("tensorrt")
    record, states = engine.record, bundle.manifest.states
    low, _, high = record.batch
    dynamic = bundle.manifest.batch is None
    if dynamic and low > 1:
        raise UserError(
            ErrorKind.argument,
            f"{engine.path.name} takes batches {low} to {high}, and Triton makes passes of any number of sequences. "
            f"Build it with --batch 1:{low}:{high}.",
        )
    if not pairs_in_order(states):
        raise UserError(
            ErrorKind.argument,
            f"Triton pairs states by the order of their names, and those of {bundle.path} do not keep to it: "
            f"{_unpaired(states)}. An engine's names cannot be changed. Use --backend onnxruntime.",
        )
    _refuse_narrow_states(bundle)
    shutil.copyfile(engine.path, folder / "model.plan")
    dtypes = {tensor.name: tensor.dtype for tensor in record.tensors}
    interface = _interface(bundle, states, dtypes)
    config = model_config(name, "tensorrt", interface, sequences, min(high, sequences) if dynamic else None)
    # Single steps and chunks have a profile each, by number (tensorrt_backend, `GetProfileIndex` in instance_state.cc);
    # of those that a pass fits it takes the nearest (`GetMostOptimizedProfile`). Unsaid, there is the first alone.
    config["instance_group"] = [{"count": 1, "profile": [str(number) for number in range(len(record.profiles))]}]
    if record.plugins is None:
        return Layout(config)
    shutil.copyfile(require_library(TENSORRT_ONLOAD), folder / TENSORRT_ONLOAD)
    shutil.copyfile(engine.path.with_name(record.plugins.name), folder / TENSORRT_PLUGINS)
    return Layout(config, plugins=TENSORRT_ONLOAD)


def write_python(bundle: Bundle, name: str, sequences: int, library: Path | None, folder: Path) -> Layout:
    """The bundle, and a `model.py` that hands it to `python_model`.

    Raises:
        UserError: the bundle is of no language model, or has a fixed batch or single steps only.
    """
    manifest = bundle.manifest
    require_logits(manifest)
    if manifest.batch is not None or manifest.lengths is None:
        raise UserError(
            ErrorKind.argument,
            f"The Python back end makes passes of any number of sequences with any number of tokens, and {bundle.path} "
            f"has mode `{manifest.mode}` and batch {manifest.batch or 'dynamic'}. Export it with --mode both --batch "
            "dynamic.",
        )
    (folder / BUNDLE).mkdir()
    tokenizer = [] if manifest.tokenizer in (None, BYTE_TOKENIZER) else [manifest.tokenizer]
    _copy(bundle, [FILE_NAME, MODEL_FILE, *manifest.weight_files, *tokenizer], folder / BUNDLE)
    if library is not None:
        shutil.copyfile(require_library(ONNXRUNTIME_LIBRARY, library), folder / ONNXRUNTIME_LIBRARY)
    (folder / "model.py").write_text(_MODEL, "utf-8")
    return Layout(python_config(name, sequences, manifest.tokenizer is not None))


def _interface(bundle: Bundle, states: tuple[StateTensor, ...], dtypes: dict[str, str] | None = None) -> Interface:
    """`dtypes`: those of the file, where they may be others than the manifest's."""
    manifest, dtypes = bundle.manifest, dtypes or {}

    def told(tensors: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(replace(tensor, dtype=dtypes.get(tensor.name, tensor.dtype)) for tensor in tensors)

    lengths = () if manifest.lengths is None else (manifest.lengths,)
    return Interface(told((*manifest.inputs, *lengths)), told(manifest.outputs), states)


def _write_renamed(bundle: Bundle, states: dict[str, StateTensor], target: Path) -> None:
    import onnx_ir

    model = onnx_ir.load(bundle.model_file)
    for value in model.graph.outputs:
        if value.name in states:
            value.name = states[value.name].output
    onnx_ir.save(model, target)


def _copy(bundle: Bundle, names: Iterable[str], folder: Path) -> None:
    for name in names:
        shutil.copyfile(bundle.path / name, folder / name)


def _refuse_narrow_states(bundle: Bundle) -> None:
    """Triton has no states of one number a row: a shape without dimensions counts as no elements (common,
    `GetElementCount` in model_config.cc)."""
    if narrow := [state.input for state in bundle.manifest.states if len(state.shape) < 2]:
        raise UserError(
            ErrorKind.argument,
            f"The state {narrow[0]} is one number a row, and Triton keeps no such state. Give it an axis of 1.",
        )


def _unpaired(states: tuple[StateTensor, ...]) -> str:
    inputs = sorted((state.input for state in states), key=str.encode)
    outputs = sorted((state.output for state in states), key=str.encode)
    outputs_of = {state.input: state.output for state in states}
    wrong = next(pair for pair in zip(inputs, outputs, strict=True) if outputs_of[pair[0]] != pair[1])
    return f"{wrong[1]} would become {wrong[0]}"
