"""What a process that is timed is told, on its command line, and which files say what its model is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..bundle.engine_record import ACTIVATIONS, Activations
from ..runtime import RuntimeName

if TYPE_CHECKING:
    from ..checkpoints.checkpoint import Checkpoint

Peer = Literal["upstream", "compiled", "transformers"]
Kind = Literal["memory", "bundle", "upstream", "compiled", "transformers-export", "transformers"]


@dataclass(frozen=True)
class Source:
    """What the peers are made of: a checkpoint, or a configuration of random weights."""

    path: str
    config: str | None = None
    select: str | None = None
    settings: tuple[str, ...] = ()
    random: bool = False
    """It is a configuration alone."""

    def open(self) -> Checkpoint:
        """Read it.

        Raises:
            UserError: it is not understood.
        """
        from ..checkpoints import ReadOptions, open_checkpoint, parse_overrides, random_checkpoint

        config = None if self.config is None else Path(self.config)
        said, path = ReadOptions(config, self.select, parse_overrides(self.settings)), Path(self.path)
        return random_checkpoint(path, 0, said) if self.random else open_checkpoint(path, said)


@dataclass(frozen=True)
class Job:
    """All that a process is told. Paths are absolute."""

    kind: Kind
    bundle: str
    batch: int
    positions: int = 1
    """Of a pass: 1, or those of a window."""
    runtime: RuntimeName = "onnxruntime"
    custom_ops: str | None = None
    activations: Activations = ACTIVATIONS
    source: Source | None = None
    """Of a peer."""
    folder: str | None = None
    """Where transformers' export is."""
    library: str | None = None
    """Of the memory streams."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def parse(text: str) -> Job:
        data = json.loads(text)
        if data["source"] is not None:
            data["source"] = Source(**data["source"] | {"settings": tuple(data["source"]["settings"])})
        return Job(**data)
