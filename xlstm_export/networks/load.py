"""A network from the user's own code, with the weights of a checkpoint, which is read without executing anything."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ..checkpoints.files.tensors import LazyTensor
from ..checkpoints.files.weights import Weights
from ..checkpoints.open import read_weights
from ..errors import ErrorKind, UserError
from .failures import users_errors

_SHOWN = 4


def load_module(name: str, weights: Path | None = None, select: str | None = None) -> nn.Module:
    """Call a factory, and load weights into what it returns.

    Args:
        name: `package.module:build`, as Python finds it from the current folder on, or `folder/file.py:build`. This is
            the user's code, and is run.
        weights: a checkpoint of any kind that is read; None: as the factory returns them.
        select: keys that lead to the network's weights in it.

    Returns:
        The network in eval mode, without gradients.

    Raises:
        UserError: there is no such factory, it fails, it returns something else, or the weights are not its own.
    """
    module = _call(name)
    if weights is not None:
        _load_weights(module, read_weights(Path(weights)), select)
    _check_finite(module)
    return module.eval().requires_grad_(False)


def source_file(name: str) -> Path:
    """The file that holds a factory that `load_module` has called."""
    where = name.rpartition(":")[0]
    return Path(where) if where.endswith(".py") else Path(str(sys.modules[where].__file__))


def digest(module: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers that are saved, in their order."""
    hash_ = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        value = tensor.detach().cpu().contiguous()
        hash_.update(f"{name} {value.dtype} {list(value.shape)}\0".encode())
        hash_.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return hash_.hexdigest()


def _call(name: str) -> nn.Module:
    where, _, attribute = name.rpartition(":")
    with users_errors(f"{name} cannot be imported"):
        module = _import(where)
    factory = getattr(module, attribute, None)
    if factory is None:
        raise UserError(ErrorKind.argument, f"{where} has no {attribute}. Name a function that returns the network.")
    with users_errors(f"{name} fails"):
        network = factory if isinstance(factory, nn.Module) else factory()
    if not isinstance(network, nn.Module):
        raise UserError(
            ErrorKind.argument, f"{name} returns {type(network).__name__}, not a torch.nn.Module that is the network."
        )
    return network


def _import(where: str) -> object:
    path = Path(where)
    if path.suffix != ".py":
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(where)
    if not path.is_file():
        raise UserError(ErrorKind.argument, f"{where} does not exist.")
    if str(path.resolve().parent) not in sys.path:  # for what lies beside it
        sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _load_weights(module: nn.Module, weights: Weights, select: str | None) -> None:
    wanted = module.state_dict()
    found = _own(weights, list(wanted), select)
    if missing := [name for name in wanted if name not in found]:
        raise UserError(
            ErrorKind.checkpoint,
            f"{weights.path} lacks {_listed(missing)} of the network. Give the checkpoint that it was saved to, or "
            "--select the keys that lead to it.",
        )
    if extra := [name for name in found if name not in wanted]:
        raise UserError(
            ErrorKind.checkpoint,
            f"{weights.path} holds {_listed(extra)}, which the network has not: the factory builds another one than "
            "was saved.",
        )
    for name, tensor in found.items():
        weights.require_readable(name)
        if tensor.shape != tuple(wanted[name].shape):
            raise UserError(
                ErrorKind.checkpoint,
                f"{weights.where(name)} has shape {list(tensor.shape)}, and {list(wanted[name].shape)} in the network: "
                "the factory builds another one than was saved.",
            )
    values = {name: tensor.read().to(wanted[name].dtype) for name, tensor in found.items()}
    module.load_state_dict(values, assign=any(value.is_meta for value in wanted.values()))


def _own(weights: Weights, names: list[str], select: str | None) -> Mapping[str, LazyTensor]:
    """The network's tensors: at the top, or below the one prefix where its names are."""
    if select is not None:
        prefixes = [f"{select.strip('.')}."]
    else:
        endings = [name.removesuffix(names[0]) for name in weights.tensors if name.endswith(names[0])] if names else []
        prefixes = sorted({p for p in endings if not p or p.endswith(".")}, key=len)
    for prefix in prefixes:
        own = {n.removeprefix(prefix): t for n, t in weights.tensors.items() if n.startswith(prefix)}
        if set(names) <= own.keys() or prefix == prefixes[-1]:
            return own
    return weights.tensors


def _check_finite(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if parameter.is_meta:
            raise UserError(
                ErrorKind.argument, f"{name} has no values (device meta): give the checkpoint with --weights."
            )
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            raise UserError(ErrorKind.checkpoint, f"parameter {name} holds NaN or infinite values. Training diverged?")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
