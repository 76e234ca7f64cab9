"""Files of `torch.save`, read without running any code that is in them (`weights_only`)."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import pathlib
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from ...errors import ErrorKind, UserError
from .tensors import LazyTensor
from .weights import Weights

_CONFIG_CLASSES = {
    "xLSTMLMModelConfig": "xlstm.xlstm_lm_model",
    "xLSTMBlockStackConfig": "xlstm.xlstm_block_stack",
    "mLSTMBlockConfig": "xlstm.blocks.mlstm.block",
    "mLSTMLayerConfig": "xlstm.blocks.mlstm.layer",
    "sLSTMBlockConfig": "xlstm.blocks.slstm.block",
    "sLSTMLayerConfig": "xlstm.blocks.slstm.layer",
    "sLSTMCellConfig": "xlstm.blocks.slstm.cell",
    "FeedForwardConfig": "xlstm.components.feedforward",
    "xLSTMLargeConfig": "xlstm.xlstm_large.model",
}
"""Upstream's configuration dataclasses: they hold plain values and run no code when they are restored."""

_HOW_TO_PASS_CONFIG = (
    "Write the configuration as YAML or JSON (the fields of xLSTMLMModelConfig; dataclasses.asdict gives them) and "
    "pass it with --config, beside a file saved as torch.save(model.state_dict(), ...)."
)


def read_file(path: Path, recognises: Callable[[Mapping[str, object]], bool]) -> Weights:
    """The one model state dictionary in a file, wherever it is nested.

    Args:
        path: a file of `torch.save`, in zip format or older.
        recognises: tells the state dictionary of an xLSTM model from an optimiser's or another network's.
    """
    content = _plain(_load(path))
    if isinstance(content, torch.Tensor) or not isinstance(content, Mapping):
        raise UserError(
            ErrorKind.checkpoint,
            f"{path} holds a {type(content).__name__}, not a state dictionary. "
            "Save the model with torch.save(model.state_dict(), ...).",
        )
    dictionaries = list(_state_dictionaries(content))
    models = [(keys, d) for keys, d in dictionaries if recognises(d)]
    if len(models) > 1:
        names = " and ".join(".".join(keys) for keys, _ in models)
        raise UserError(
            ErrorKind.checkpoint, f"{path} holds several models: {names}. Save the one to export in a file of its own."
        )
    if not models and len(dictionaries) == 1:
        models = dictionaries  # of another family: for the detector to name
    if not models:
        hint = f" (top-level keys: {', '.join(map(str, list(content)[:6]))})" if content else ""
        raise UserError(
            ErrorKind.checkpoint,
            f"{path} holds no state dictionary of an xLSTM model{hint}. "
            "Save the model with torch.save(model.state_dict(), ...).",
        )
    keys, state = models[0]
    tensors = {name: _lazy(name, path, value) for name, value in state.items() if isinstance(value, torch.Tensor)}
    around = sorted(
        ".".join(k) for k, _ in dictionaries if keys and len(k) == len(keys) and k[:-1] == keys[:-1] and k != keys
    )
    notes = (f"{', '.join(around)} beside {'.'.join(keys)} in {path.name} is not exported.",) if around else ()
    return Weights(path, tensors, dict.fromkeys(tensors, path), extras=_without_tensors(content), notes=notes)


def _load(path: Path) -> object:
    zipped = zipfile.is_zipfile(path)
    if zipped:
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error) as error:
            raise UserError(
                ErrorKind.checkpoint, f"{path} is a damaged zip archive ({error}). Copy or save it again."
            ) from None
        if any(name.endswith("/constants.pkl") for name in names):
            raise UserError(
                ErrorKind.checkpoint,
                f"{path} is a TorchScript archive. Save the model with torch.save(model.state_dict(), ...).",
            )
        if not any(name.endswith("/data.pkl") for name in names):
            raise UserError(ErrorKind.checkpoint, f"{path} is a zip archive, but not one of torch.save.")
    else:
        with path.open("rb") as file:
            start = file.read(2)
        if start == b"PK":
            raise UserError(
                ErrorKind.checkpoint,
                f"{path} is a zip archive without its end: it is truncated or damaged. Copy or save it again.",
            )
        if start[:1] != pickle.PROTO:
            raise UserError(
                ErrorKind.checkpoint,
                f"{path} is no file of torch.save (neither a zip archive nor a pickle). It is of another format, or "
                "damaged: copy or save it again.",
            )
    try:
        with safe_globals([*_harmless(), *_upstream_configs(path if zipped else None)]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise _explain(path, str(error), zipped) from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, OSError) as error:
        raise UserError(
            ErrorKind.checkpoint,
            f"{path} cannot be read as a file of torch.save ({' '.join(str(error).split())[:200]}). "
            "It is truncated or damaged; copy or save it again.",
        ) from None


def _harmless() -> list[object]:
    """Plain containers and NumPy values (losses, random states) that training scripts keep beside the weights."""
    numbers = [np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0], np.ndarray, np.dtype]
    dtypes = [getattr(np.dtypes, name) for name in dir(np.dtypes) if name.endswith("DType") and name != "ObjectDType"]
    return [argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath, *numbers, *dtypes]


def _upstream_configs(path: Path | None) -> list[type]:
    """The configuration classes that the file needs, where the `xlstm` package is installed."""
    if path is None:
        return []
    try:
        needed = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a damaged file: `torch.load` says so better
        return []
    classes = []
    for name in needed:
        module, _, class_name = name.rpartition(".")
        if _CONFIG_CLASSES.get(class_name) == module:
            try:
                classes.append(getattr(importlib.import_module(module), class_name))
            except ImportError:
                pass
    return classes


def _explain(path: Path, error: str, zipped: bool) -> UserError:
    """Why a pickle was refused, from the global it wanted."""
    wanted = ""
    if zipped:
        try:
            with safe_globals(_harmless()):
                names = get_unsafe_globals_in_checkpoint(path)
            others = [name for name in names if name.rpartition(".")[2] not in _CONFIG_CLASSES] or names
            wanted = next((name for name in others if name.startswith("omegaconf.")), others[0] if others else "")
        except Exception:  # a damaged file: the name in the first error has to do
            pass
    if not wanted and "GLOBAL " in error:
        wanted = error.split("GLOBAL ", 1)[1].split()[0]
    if not wanted:
        return UserError(
            ErrorKind.checkpoint,
            f"{path} is a pickle, but not a file of torch.save that can be read without running code. "
            "Save the model with torch.save(model.state_dict(), ...) or as safetensors.",
        )
    start = f"{path} holds a pickled {wanted}, and objects are not unpickled: that could run code from the file. "
    class_name = wanted.rpartition(".")[2]
    if class_name in _CONFIG_CLASSES:
        return UserError(
            ErrorKind.checkpoint,
            f"{start}{_HOW_TO_PASS_CONFIG} With the xlstm package installed, this file can be read as it is.",
        )
    if class_name in ("xLSTMLMModel", "xLSTMBlockStack", "xLSTMLarge") or wanted.startswith(("torch.nn.", "__main__.")):
        return UserError(
            ErrorKind.checkpoint, f"{start}Save torch.save(model.state_dict(), ...) instead of the whole model."
        )
    return UserError(ErrorKind.checkpoint, f"{start}{_HOW_TO_PASS_CONFIG}")


def _plain(value: object) -> object:
    """Configuration objects as mappings, without the fields that upstream derives; other values as they are."""
    if isinstance(value, torch.Tensor):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
        return {k: _plain(v) for k, v in value.items() if not k.startswith("_")}
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _state_dictionaries(content: Mapping, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping]]:
    """Every mapping in nested mappings that holds tensors by name."""
    if any(isinstance(value, torch.Tensor) for value in content.values()) and all(isinstance(k, str) for k in content):
        yield keys, content
    for key, value in content.items():
        if isinstance(value, Mapping) and isinstance(key, str) and len(keys) < 4 and "optim" not in key.lower():
            yield from _state_dictionaries(value, (*keys, key))


def _without_tensors(content: Mapping) -> dict:
    plain = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            plain[key] = _without_tensors(value)
        elif not isinstance(value, torch.Tensor):
            plain[key] = value
    return plain


def _lazy(name: str, path: Path, tensor: torch.Tensor) -> LazyTensor:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        kind = "quantised" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
        kind = "meta (without values)" if tensor.device.type != "cpu" else kind
        raise UserError(ErrorKind.checkpoint, f"tensor {name} of {path} is {kind}; expected a plain dense tensor.")
    return LazyTensor.loaded(name, path, tensor)
