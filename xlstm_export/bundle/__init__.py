"""The bundle: a folder that holds one exported model. FORMAT.md is its description for every language."""

from .bundle import Bundle, Engine
from .engine_record import EngineRecord
from .manifest import Manifest, StateTensor, TensorSpec

__all__ = ["Bundle", "Engine", "EngineRecord", "Manifest", "StateTensor", "TensorSpec"]
