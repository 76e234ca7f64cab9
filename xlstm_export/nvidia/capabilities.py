"""Names of compute capabilities, as options take them: `sm89`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import ErrorKind, UserError

CURRENT = "current"
"""The GPU of this machine."""


def parse_capabilities(texts: Iterable[str]) -> list[str]:
    """`["sm89,8.6", "75"]` as `["sm75", "sm86", "sm89"]`: in rising order, without repeats; `current` comes first.

    Raises:
        UserError: not a compute capability, or `current` beside others.
    """
    words = [word.strip().lower() for text in texts for word in text.split(",") if word.strip()]
    names = sorted({_name(word) for word in words}, key=capability_number)
    if CURRENT in names and len(names) > 1:
        raise UserError(
            ErrorKind.argument, f"target {CURRENT!r} cannot be combined with {', '.join(names[1:])}: name them all."
        )
    return names


def capability_number(name: str) -> int:
    """`sm89` as 89; `current` as -1."""
    return int(name[2:]) if name != CURRENT else -1


def _name(word: str) -> str:
    if word == CURRENT:
        return word
    match = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", word)
    if not match:
        raise UserError(
            ErrorKind.argument, f"target {word!r} is not a compute capability such as sm89, and not {CURRENT!r}."
        )
    return f"sm{match[1]}{match[2]}"
