"""Bundle → a model repository of NVIDIA's Triton Inference Server."""

from __future__ import annotations

from .repository import BACKENDS, Backend, Repository, write_repository

__all__ = ["BACKENDS", "Backend", "Repository", "write_repository"]
