"""Bundle → engine for TensorRT-RTX (ahead of time, no GPU needed) and TensorRT (on the machine it is for)."""

from .build import build_engine
from .report import render
from .request import EngineRequest

__all__ = ["EngineRequest", "build_engine", "render"]
