"""The one exception that is meant for people: the command line prints its message and exits with code 2."""

from __future__ import annotations

from enum import Enum


class ErrorKind(Enum):
    """What a program can decide by. Names and numbers are those of `xlstm::ErrorCode` in `xlstm/xlstm.hpp`."""

    bundle = 1
    """Not a bundle, or it is damaged, incomplete, or of another version."""
    unavailable = 2
    """A library, package, device or runtime is not here."""
    argument = 3
    """A value that the caller gave is out of range."""
    state = 4
    """A saved state is damaged, of another version, or of another model."""
    runtime = 5
    """A runtime, builder or compiler failed while it worked."""
    checkpoint = 7
    """A checkpoint or its configuration is not understood. (The C++ library reads none; 6 is C's "other".)"""


_LONGEST = 5000
"""Characters of a message: names in files can be of any length."""


class UserError(Exception):
    """Something that the user can mend.

    Args:
        kind: for programs.
        message: for people; it says what is wrong, where it is, and what to do.
    """

    def __init__(self, kind: ErrorKind, message: str):
        super().__init__(printable(message if len(message) <= _LONGEST else f"{message[:_LONGEST]} [...]"))
        self.kind = kind


def printable(text: str) -> str:
    """A text that may hold names out of a file, as a terminal may show it: control characters are written out."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
