"""Damaged JSON files, for readers that must agree on what they refuse."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

# Values that are right somewhere and wrong elsewhere, or just beyond a limit; and the like for bytes.
_NUMBERS = [0, -1, 1, 2, 97, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1]
_NUMBERS += [0.0, 2.0, -0.5, 1e300]
_TEXTS = "batch sequence int64 float32 step both prefill decode logits tokens . .. a/b a\\b é 10 10x .5".split()
_TEXTS += ["", "x\0y", "\U0001f600", "0" * 64, "A" * 64]
_LISTS = [[], [1], ["batch"], ["batch", 1], ["decode"], ["prefill", "decode"], [3, 2, 1]]
_VALUES = [None, True, *_NUMBERS, *_TEXTS, *_LISTS, {}, {"name": "x", "sha256": "0" * 64}]
_PIECES = rb"// /**/ , [ ] { } NaN -Infinity 1e999 1e-999 -0 01 1. +1 ' truE 18446744073709551616".split()
_PIECES += rb'" \ud800 \ud83d\ude00 \u0000 \x \/'.split()
_PIECES += [bytes([code]) for code in (0x00, 0x09, 0x0A, 0x0B, 0x1F, 0x7F, 0xC3, 0xFF)]
_PIECES += [b"\xc2\xa0", b"\xed\xa0\x80", b"\xef\xbb\xbf"]


def damaged_value(value: Any, random: Random) -> Any:
    """A copy with one to three entries removed, or replaced by another entry or by a value of those above."""
    value = copy.deepcopy(value)
    for _ in range(random.choice([1, 1, 2, 3])):
        paths = _paths(value)
        path = random.choice(paths)
        inside = _at(value, path[:-1])
        what = random.random()
        if what < 0.2:
            del inside[path[-1]]
        else:
            other = _at(value, random.choice(paths)) if what < 0.3 else random.choice(_VALUES)
            inside[path[-1]] = copy.deepcopy(other)
    return value


def damaged_bytes(data: bytes, random: Random) -> bytes:
    """A copy with bytes removed, replaced or inserted at one or two places."""
    result = bytearray(data)
    for _ in range(random.choice([1, 2])):
        at, what = random.randrange(len(result)), random.random()
        if what < 0.3:
            del result[at : at + random.randrange(4)]
        elif what < 0.8:
            result[at:at] = random.choice(_PIECES)
        else:
            result[at] = random.randrange(256)
    return bytes(result)


def damaged_json(data: bytes, random: Random) -> bytes:
    """Either of the two above."""
    if random.random() < 0.5:
        return damaged_bytes(data, random)
    return json.dumps(damaged_value(json.loads(data), random), ensure_ascii=random.random() < 0.5).encode()


def _paths(value: Any, path: tuple = ()) -> list[tuple]:
    """Of all entries, however deep."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [p for key in keys for p in [(*path, key), *_paths(value[key], (*path, key))]]


def _at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value
