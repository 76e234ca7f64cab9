"""What the files hold, before any family has looked at it: tensors by the names that the user gave them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ...errors import ErrorKind, UserError
from .tensors import LazyTensor

Shapes = dict[str, list[tuple[int, ...]]]
"""The shapes that each tensor may have, by name."""

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of a name put there by data parallelism, `torch.compile` and activation checkpointing, at any depth."""

_COUNTER = "n_averaged"  # of `torch.optim.swa_utils.AveragedModel`


@dataclass(frozen=True)
class Weights:
    """Tensors by name, the file of each, and what else lay beside them."""

    path: Path
    """What the user named."""
    tensors: Mapping[str, LazyTensor]
    files: Mapping[str, Path]
    """The file that holds each tensor."""
    names: Mapping[str, str] = field(default_factory=dict)
    """The name that a tensor has in its file, where it is another."""
    root: str = ""
    """What the names of the tensors started with before it was taken off: empty, or ending in a dot."""
    extras: Mapping[str, object] = field(default_factory=dict)
    """Everything else in the file, as plain values: configurations are looked for here."""
    notes: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def where(self, name: str) -> str:
        """The tensor as a message names it."""
        return f"tensor {self.names.get(name, name)} of {self.files[name]}"

    def shape(self, name: str, *ranks: int) -> tuple[int, ...]:
        """Shape, with one of these numbers of axes, of a tensor that the model cannot be understood without."""
        if name not in self.tensors:
            raise missing(self, [name])
        self.require_readable(name)
        shape = self.tensors[name].shape
        if len(shape) not in ranks or 0 in shape:
            wanted = " or ".join(str(rank) for rank in ranks)
            raise UserError(
                ErrorKind.checkpoint,
                f"{self.where(name)} has shape {list(shape)}; expected {wanted} axes, none of them empty. "
                "The file is damaged, or its model is a variant that is not supported.",
            )
        return shape

    def unwrapped(self) -> Weights:
        """The same tensors without wrappers in their names, and without what wrappers add."""
        renamed: dict[str, str] = {}
        for name in self.tensors:
            if name.endswith(_COUNTER):
                continue
            plain = ".".join(part for part in name.split(".") if part not in WRAPPERS)
            if plain in renamed:
                if self.tensors[name].is_same(self.tensors[renamed[plain]]):
                    continue
                raise UserError(
                    ErrorKind.checkpoint,
                    f"{self.path}: {renamed[plain]} and {name} are the same tensor under two names. "
                    "Save one state dictionary.",
                )
            renamed[plain] = name
        return self.renamed(renamed)

    def below(self, prefix: str) -> Weights:
        """The tensors whose names start with `prefix`, without it."""
        names = {name[len(prefix) :]: name for name in self.tensors if name.startswith(prefix)}
        return replace(self.renamed(names), root=self.root + prefix)

    def without(self, constants: tuple[str, ...]) -> Weights:
        """The tensors whose names do not end like that."""
        return self.renamed({name: name for name in self.tensors if not name.endswith(constants)})

    def renamed(self, old_names: Mapping[str, str]) -> Weights:
        """The tensors under new names: new name → old name."""
        tensors = {new: self.tensors[old] for new, old in old_names.items()}
        files = {new: self.files[old] for new, old in old_names.items()}
        names = {new: self.names.get(old, old) for new, old in old_names.items()}
        return replace(self, tensors=tensors, files=files, names=names)

    def require(self, expected: Shapes) -> None:
        """Every expected tensor is there with one of its shapes and a floating dtype, and there is no other.

        Raises:
            UserError: naming the first tensor that is missing, unknown, of another shape or of another dtype.
        """
        if absent := [name for name in expected if name not in self.tensors]:
            raise missing(self, absent)
        if unknown := [name for name in self.tensors if name not in expected]:
            raise UserError(
                ErrorKind.checkpoint,
                f"{self.where(unknown[0])}{_more(unknown)} is not part of the model that the other tensors make. "
                "The checkpoint is of a variant that is not supported, or holds another network's tensors: "
                "save the xLSTM model's own state_dict().",
            )
        for name, shapes in expected.items():
            self.require_readable(name)
            tensor = self.tensors[name]
            if tensor.shape not in shapes:
                wanted = " or ".join(str(list(shape)) for shape in shapes)
                raise UserError(
                    ErrorKind.checkpoint,
                    f"{self.where(name)} has shape {list(tensor.shape)}; the other tensors need {wanted}. "
                    "The file is damaged, or its model is a variant that is not supported.",
                )
            if tensor.dtype not in FLOATS:
                raise UserError(
                    ErrorKind.checkpoint,
                    f"{self.where(name)} has dtype {str(tensor.dtype).removeprefix('torch.')}; expected float32, "
                    "float16, bfloat16 or float64. Quantised checkpoints are not supported: give the original.",
                )

    def require_readable(self, name: str) -> None:
        """Raise `UserError` for a tensor that is named but has no values here."""
        if (reason := self.tensors[name].reason) is not None:
            raise UserError(ErrorKind.checkpoint, f"{self.where(name)} is {reason}; expected a plain dense tensor.")


def missing(weights: Weights, names: list[str]) -> UserError:
    """The error for absent tensors."""
    return UserError(
        ErrorKind.checkpoint,
        f"{weights.path}: tensor {names[0]}{_more(names)} is missing. The checkpoint is incomplete (a lost shard, an "
        "interrupted save), or of a variant that is not supported.",
    )


def _more(names: Iterable[str]) -> str:
    rest = len(list(names)) - 1
    return f" (and {rest} more)" if rest else ""
