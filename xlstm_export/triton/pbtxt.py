"""Protocol buffers' text format, as far as `config.pbtxt` needs it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class Word(str):
    """A value of an enumeration, which stands without quotes."""


def render(message: Mapping[str, Any], indent: str = "") -> str:
    """The fields of a message, one a line.

    Args:
        message: by field: `Word`, text, a number, a truth value, a mapping (a message), or a list of these.
    """
    return "".join(_field(name, value, indent) for name, value in message.items())


def _field(name: str, value: Any, indent: str) -> str:
    if isinstance(value, Mapping):
        return f"{indent}{name} {{\n{render(value, indent + '  ')}{indent}}}\n"
    if not isinstance(value, list):
        return f"{indent}{name}: {_scalar(value)}\n"
    if any(isinstance(one, Mapping) for one in value):
        return "".join(_field(name, one, indent) for one in value)
    return f"{indent}{name}: [{', '.join(map(_scalar, value))}]\n"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, Word | int) else json.dumps(value, ensure_ascii=False)
