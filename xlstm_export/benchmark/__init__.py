"""How fast a bundle steps, as a fraction of what the memory allows."""

from .render import render
from .step import StepTiming, time_steps

__all__ = ["StepTiming", "render", "time_steps"]
