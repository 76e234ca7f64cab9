"""Files of `torch.save` as weights: every tensor that they name, and the plain values beside them.

Nothing in such a file is run, imported or called (see `pickle_machine`), and no tensor is loaded (see `torch_files`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ...errors import ErrorKind, UserError
from .pickle_machine import BadPickle, Record, Table
from .records import is_torch, plain
from .tensors import FileExtent, LazyTensor
from .torch_files import TorchFile, read_torch_file
from .torch_records import Unreadable, View, named_tensors, tensor_of
from .weights import Weights


def read_file(path: Path) -> Weights:
    """The tensors of a file of `torch.save`, named by the keys that lead to them (`model.blocks.0.norm.weight`).

    They may lie in dictionaries, in modules that were pickled whole, or in other objects.

    Raises:
        UserError: the file is of another kind or damaged, or has no tensor with a name.
    """
    file = read_torch_file(path)
    try:
        named = named_tensors(file.content)
    except BadPickle as error:
        raise UserError(
            ErrorKind.checkpoint, f"{path} cannot be read: {error}. Save torch.save(model.state_dict(), ...) instead."
        ) from None
    if not named:
        raise _no_tensors(path, file.content)
    tensors = {name: _lazy(name, path, tensor, file) for name, tensor in named.items()}
    extras = plain(file.content)
    return Weights(path, tensors, dict.fromkeys(tensors, path), extras=extras if isinstance(extras, dict) else {})


def _no_tensors(path: Path, content: object) -> UserError:
    advice = "Save the model with torch.save(model.state_dict(), ...)."
    if tensor_of(content) is not None or not isinstance(content, Table | Record):
        kind = "Tensor" if is_torch(content) else type(content).__name__
        return UserError(ErrorKind.checkpoint, f"{path} holds a {kind}, not a state dictionary. {advice}")
    keys = [key for key, _ in content.pairs if isinstance(key, str)]
    hint = f" (top-level keys: {', '.join(keys[:6])})" if keys else ""
    return UserError(ErrorKind.checkpoint, f"{path} holds no state dictionary of an xLSTM model{hint}. {advice}")


def _lazy(name: str, path: Path, tensor: View | Unreadable, file: TorchFile) -> LazyTensor:
    if isinstance(tensor, Unreadable):
        return LazyTensor.unreadable(tensor.reason)
    whole = file.storages.get(tensor.storage.key)
    if whole is None or whole.length < tensor.storage.nbytes:
        return LazyTensor.unreadable("of a storage that is not there, or too short (the file is damaged)")
    size = tensor.dtype.itemsize
    extent = FileExtent(path, whole.offset + tensor.offset * size, tensor.span * size)
    if tensor.is_contiguous:
        lazy = LazyTensor.stored(name, extent, tensor.shape, tensor.dtype)
        return lazy if extent.offset % size == 0 else dataclasses.replace(lazy, extent=None)  # the older format
    return LazyTensor.strided(name, extent, tensor.shape, tensor.strides, tensor.dtype)
