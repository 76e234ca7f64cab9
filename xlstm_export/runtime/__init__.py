"""Run a bundle from Python: `open_session` on any runtime, text in and out, sampling."""

from ..bundle.engine_record import RuntimeName
from .open import RUNTIMES, open_session
from .session import Session

__all__ = ["RUNTIMES", "RuntimeName", "Session", "open_session"]
