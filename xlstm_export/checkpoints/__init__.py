"""Checkpoints as users have them, read into an architecture and tensors by canonical name."""

from ..modeling.architecture import Architecture
from .checkpoint import Checkpoint
from .files.tensors import FileExtent, LazyTensor
from .open import find_models, open_checkpoint, read_config

__all__ = ["Architecture", "Checkpoint", "FileExtent", "LazyTensor", "find_models", "open_checkpoint", "read_config"]
