"""Checkpoints as users have them, read into an architecture and tensors by canonical name."""

from .architecture import Architecture
from .checkpoint import Checkpoint
from .detect import open_checkpoint, read_config
from .tensors import FileExtent, LazyTensor

__all__ = ["Architecture", "Checkpoint", "FileExtent", "LazyTensor", "open_checkpoint", "read_config"]
