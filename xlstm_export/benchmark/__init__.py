"""How fast a bundle steps, as a fraction of what the memory allows."""

from .step import StepTiming, render, time_steps

__all__ = ["StepTiming", "render", "time_steps"]
