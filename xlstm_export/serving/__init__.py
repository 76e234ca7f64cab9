"""Serve many sequences from one session: slots, continuous batching, text; nothing of networks or servers."""

from .batcher import Batcher, Busy, Sequence, Task
from .completion import Completion
from .slots import Slot, SlotPool
from .thread import BatcherThread

__all__ = ["Batcher", "BatcherThread", "Busy", "Completion", "Sequence", "Slot", "SlotPool", "Task"]
