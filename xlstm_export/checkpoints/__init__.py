"""Checkpoints as users have them, read into an architecture and tensors by canonical name."""

from .checkpoint import Checkpoint
from .files.settings import parse_overrides
from .files.tensors import FileExtent, LazyTensor
from .open import ReadOptions, find_models, open_checkpoint, read_config
from .random_weights import random_checkpoint

__all__ = [
    "Checkpoint",
    "FileExtent",
    "LazyTensor",
    "ReadOptions",
    "find_models",
    "open_checkpoint",
    "parse_overrides",
    "random_checkpoint",
    "read_config",
]
