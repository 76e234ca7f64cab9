"""What is served, and how."""

from __future__ import annotations

from dataclasses import dataclass

from ..bundle.engine_record import RuntimeName


@dataclass(frozen=True)
class Settings:
    """The `args` of the application in a Serve config file."""

    bundle: str
    """Its folder; on a cluster, the same path on every machine."""
    states: str
    """The folder of conversations; on a cluster, one that all machines share."""
    replicas: int = 1
    slots: int = 64
    """Sequences that one replica runs side by side."""
    queue: int = 128
    """Requests that wait for a slot of one replica."""
    keep_hours: float = 24
    """After which a state that nobody went on from is removed."""
    runtime: RuntimeName = "onnxruntime"
    custom_ops: str | None = None
    """The custom-op library of ONNX Runtime; None: the cells' definitions."""
    cpus: float = 1
    """Of one replica."""
    gpus: float = 0
    """Of one replica."""
