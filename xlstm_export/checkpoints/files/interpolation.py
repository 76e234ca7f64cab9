"""`${a.b}` replaced and `???` (not set) dropped in a configuration, as OmegaConf does.

References can lead to one another, and YAML's aliases to one mapping in many places, so the result is limited.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_VALUES = 200_000
MAX_DEPTH = 60

LEFT_OUT = "<...>"
"""In place of what is beyond the limits."""

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_UNSET = object()


def resolve(values: Mapping) -> dict[str, object]:
    """A copy with str keys, in which nothing refers to anything else."""
    resolved = _Resolver(values).value(values, 0)
    assert isinstance(resolved, dict)
    return resolved


class _Resolver:
    def __init__(self, root: Mapping) -> None:
        self.root = root
        self.left = MAX_VALUES

    def value(self, value: object, depth: int) -> object:
        self.left -= 1
        if self.left < 0 or depth > MAX_DEPTH:
            return LEFT_OUT
        if isinstance(value, Mapping):
            items = {str(key): self.value(item, depth + 1) for key, item in value.items()}
            return {key: item for key, item in items.items() if item is not _UNSET}
        if isinstance(value, list | tuple):
            return [item for v in value if (item := self.value(v, depth + 1)) is not _UNSET]
        if value == "???":
            return _UNSET
        if isinstance(value, str) and (reference := _REFERENCE.fullmatch(value)):
            return self.value(self._target(reference[1]), depth + 1)
        return value

    def _target(self, keys: str) -> object:
        target: object = self.root
        for key in keys.split("."):
            target = target.get(key, "???") if isinstance(target, Mapping) else "???"
        return target
