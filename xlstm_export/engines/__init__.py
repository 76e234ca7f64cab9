"""Bundle → engine for TensorRT-RTX (ahead of time, no GPU needed) and TensorRT (on the machine it is for)."""

from ..bundle.engine_record import EngineRecord, find_engine, list_engines, read_record
from .build import build_engine
from .report import render

__all__ = ["EngineRecord", "build_engine", "find_engine", "list_engines", "read_record", "render"]
