"""JSON files as FORMAT.md has them, and the checks that manifest and sidecar share: one clear error for each fault."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ErrorKind, UserError

_MAX_BYTES = 16 << 20
_MAX_DEPTH = 64
MAX_COUNT = 2**31 - 1
_MAX_DIMENSIONS = 8
_MAX_ELEMENTS = 2**40


def read_json(path: Path, remedy: str) -> Any:
    """The value in a file of UTF-8 JSON.

    Raises:
        UserError: it cannot be read, or breaks a rule of FORMAT.md's section on JSON.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(ErrorKind.bundle, f"{path} cannot be read: {error.strerror}. {remedy}") from None
    return parse_json(data, str(path), remedy)


def parse_json(data: bytes, where: str, remedy: str) -> Any:
    """The value that the bytes of a file hold; raises as `read_json`."""
    if len(data) > _MAX_BYTES:
        raise UserError(ErrorKind.bundle, f"{where} has {len(data):,} bytes, more than {_MAX_BYTES:,}. {remedy}")
    try:
        text = data.decode("utf-8")
        value = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_integer, object_pairs_hook=_object
        )
        _require_characters(value)
    except (ValueError, RecursionError) as error:
        raise UserError(ErrorKind.bundle, f"{where} is not valid JSON ({error}). {remedy}") from None
    if _depth(text) > _MAX_DEPTH:
        raise UserError(ErrorKind.bundle, f"{where} is nested more than {_MAX_DEPTH} deep. {remedy}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text} is beyond the range of a double")
    return value


def _integer(text: str) -> int:
    if not -(2**63) <= (value := int(text)) < 2**64:
        raise ValueError("an integer has more than 64 bits")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The last of equal keys counts; what the others hold is dropped here, and checked before."""
    value = dict(pairs)
    if len(value) < len(pairs):
        _require_characters(pairs)
    return value


def _require_characters(value: Any) -> None:
    """A lone surrogate is no character, and cannot be encoded."""
    json.dumps(value, ensure_ascii=False).encode("utf-8")


def _depth(text: str) -> int:
    """Of valid JSON, what is dropped included."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", re.sub(r'"(?:[^"\\]|\\.)*"', "", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


class Fields:
    """The entries of one JSON object, each checked when it is taken.

    Args:
        data: the object.
        where: names the file in messages.
        remedy: the last sentence of a message.
        at: where in the file the object is: `states[2].`.
    """

    def __init__(self, data: Any, where: str, remedy: str, at: str = ""):
        self._data, self._where, self._remedy, self._at = data, where, remedy, at
        if not isinstance(data, dict):
            self._at = ""
            self.fail(f"{at.rstrip('.') or 'it'} is {_shown(data)}, not an object")

    def fail(self, what: str) -> NoReturn:
        raise UserError(ErrorKind.bundle, f"{self._where}: {what}. {self._remedy}")

    def require(self, keys: Iterable[str]) -> None:
        """All of these keys are there."""
        if missing := [key for key in keys if key not in self._data]:
            self.fail(f"{', '.join(self._at + key for key in missing)} missing")

    def raw(self, key: str) -> Any:
        """The value as it is."""
        if key not in self._data:
            self.fail(f"{self._at}{key} missing")
        return self._data[key]

    def is_null(self, key: str) -> bool:
        return self.raw(key) is None

    def is_absent(self, key: str) -> bool:
        """Whether an optional entry is left out, or null."""
        return self._data.get(key) is None

    def _checked(self, key: str, good: bool, wanted: str) -> Any:
        if not good:
            self.fail(f"{self._at}{key} is {_shown(self._data[key])}, not {wanted}")
        return self._data[key]

    def text(self, key: str) -> str:
        return self._checked(key, _is_text(self.raw(key)), "a text")

    def file_name(self, key: str) -> str:
        return self._checked(key, _is_file_name(self.raw(key)), "a plain file name")

    def sha256(self, key: str) -> str:
        value = self.raw(key)
        good = isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None
        return self._checked(key, good, "a SHA-256 in 64 lower-case hexadecimal digits")

    def choice(self, key: str, allowed: Iterable[Any]) -> Any:
        allowed = tuple(allowed)
        good = any(type(self.raw(key)) is type(one) and self._data[key] == one for one in allowed)
        return self._checked(key, good, f"one of {', '.join(json.dumps(one) for one in allowed)}")

    def integer(self, key: str, least: int, most: int) -> int:
        value = self.raw(key)
        good = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        return self._checked(key, good, f"an integer from {least} to {most}")

    def count(self, key: str) -> int:
        return self.integer(key, 1, MAX_COUNT)

    def number(self, key: str) -> float:
        value = self.raw(key)
        good = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        return self._checked(key, good, "a number that is not negative")

    def boolean(self, key: str) -> bool:
        return self._checked(key, isinstance(self.raw(key), bool), "true or false")

    def mapping(self, key: str) -> dict[str, Any]:
        return self._checked(key, isinstance(self.raw(key), dict), "an object")

    def items(self, key: str) -> list[Any]:
        return self._checked(key, isinstance(self.raw(key), list), "a list")

    def counts(self, key: str, length: int) -> tuple[int, ...]:
        """A list of so many counts."""
        good = len(self.items(key)) == length and all(map(is_count, self._data[key]))
        return tuple(self._checked(key, good, f"a list of {length} positive numbers"))

    def integers(self, key: str, least: int) -> tuple[int, ...]:
        """A list of integers from `least` on."""
        good = all(isinstance(v, int) and not isinstance(v, bool) and least <= v <= MAX_COUNT for v in self.items(key))
        return tuple(self._checked(key, good, f"a list of integers from {least} on"))

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(self._checked(key, all(map(_is_text, self.items(key))), "a list of texts"))

    def file_names(self, key: str) -> tuple[str, ...]:
        return tuple(self._checked(key, all(map(_is_file_name, self.items(key))), "a list of plain file names"))

    def shape(self, key: str, batch: int | None, positions: bool, unknown: bool = False) -> tuple[Any, ...]:
        """A shape of up to 8 dimensions that begins with the batch.

        Args:
            batch: the number of rows; None: any, called "batch".
            positions: one dimension may be "sequence".
            unknown: dimensions may be null.
        """
        shape = self.items(key)
        first = "batch" if batch is None else batch
        good = 1 <= len(shape) <= _MAX_DIMENSIONS and type(shape[0]) is type(first) and shape[0] == first
        rest = [d for d in shape[1:] if not (unknown and d is None)]
        if positions and rest.count("sequence") == 1:
            rest.remove("sequence")
        good = good and all(map(is_count, rest)) and math.prod(rest) < _MAX_ELEMENTS
        return tuple(self._checked(key, good, f"a list of {first} and then positive numbers"))

    def below(self, key: str) -> Fields:
        """The entries of the object under a key."""
        return Fields(self.raw(key), self._where, self._remedy, f"{self._at}{key}.")

    def each(self, key: str) -> list[Fields]:
        """The entries of each object in a list."""
        return [
            Fields(item, self._where, self._remedy, f"{self._at}{key}[{index}].")
            for index, item in enumerate(self.items(key))
        ]


def is_count(value: Any) -> bool:
    """Whether it is an integer from 1 to 2147483647."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_COUNT


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _is_file_name(value: Any) -> bool:
    return _is_text(value) and "/" not in value and "\\" not in value and value not in (".", "..")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
