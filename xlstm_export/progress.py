"""How long work tells that it goes on."""

from __future__ import annotations

from collections.abc import Callable

Advance = Callable[[int], None]
"""Called with an amount each time that much has been dealt with."""

Stage = Callable[[str, int | None], Advance]
"""`stage("Writing weights", total_bytes)` announces a stage and returns what to call with each bit of progress."""


def no_progress(title: str, total: int | None) -> Advance:
    """A `Stage` for whoever does not want to watch."""
    return lambda _: None
