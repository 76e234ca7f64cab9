"""What a fuzzer does to its inputs: bytes, opcodes of pickles, values of JSON and YAML, headers of safetensors."""

from __future__ import annotations

import copy
import json
import pickletools
import random
from collections.abc import Iterator
from typing import Any

import yaml

from support.hostile_pickles import EXHAUSTING, RUNNING

_BYTES = [0, 1, 0x28, 0x2E, 0x52, 0x7F, 0x80, 0xFF]
_NUMBERS = [0, 1, -1, 2, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**53, 2**62, 2**63, 2**64]
_VALUES: list[Any] = [*_NUMBERS, -(2**63), 10**400, 0.5, 1e308, float("nan"), float("inf"), True, False, None, "", "a"]
_VALUES += [
    [],
    {},
    [[]],
    {"": {}},
    [1, 2, 3],
    ["a", None],
    "???",
    "${a.b}",
    "${model}",
    "x" * 500,
    "\0",
    "\ud800",
    "1e-6",
]
_WORDS = ["model", "dtype", "shape", "data_offsets", "F32", "embedding_dim", "num_blocks", "mlstm_block", "slstm_block"]
_WORDS += ["hidden_size", "num_hidden_layers", "model_type", "xlstm", "vocab_size", "slstm_at", "all", "../x", "/etc"]


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    """Any bytes, changed in one to four places."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        length = min(rng.choice((1, 1, 2, 4, 8, 64, 1000)), len(changed) - at)
        match rng.choice((0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 4, 5, 6)):
            case 0 if length:
                changed[at] ^= 1 << rng.randrange(8)
            case 1 if length:
                changed[at] = rng.choice(_BYTES)
            case 2:
                size = rng.choice((1, 2, 4, 8))
                changed[at : at + size] = (rng.choice(_NUMBERS) % 2**64).to_bytes(8, "little")[:size]
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length]
            case 5:
                changed[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
            case 6:
                del changed[at:]
    return bytes(changed)


def change_pickle(rng: random.Random, data: bytes) -> bytes:
    """A pickle, changed by opcodes more often than by bytes."""
    if rng.random() < 0.2:
        return change_bytes(rng, data)
    try:
        starts = [position for _, _, position in pickletools.genops(data)]
    except ValueError:
        return change_bytes(rng, data)
    ends = [*starts[1:], len(data)]
    opcodes = [data[start:end] for start, end in zip(starts, ends, strict=True)]
    strange = [*RUNNING.values(), *(value for value in EXHAUSTING.values() if len(value) < 1000)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, other = rng.randrange(len(opcodes)), rng.randrange(len(opcodes))
        match rng.randrange(6):
            case 0:
                del opcodes[at : at + rng.choice((1, 1, 3))]
            case 1:
                opcodes.insert(at, opcodes[other])
            case 2:
                opcodes[at], opcodes[other] = opcodes[other], opcodes[at]
            case 3:
                opcodes.insert(at, rng.choice(strange))
            case 4:
                opcodes.insert(at, bytes([rng.choice(pickletools.opcodes).code.encode("latin-1")[0]]))
            case 5:
                opcodes[at : at + 1] = opcodes[other : other + rng.choice((1, 5, 50))]
        opcodes = opcodes or [b"N", b"."]
    return b"".join(opcodes)


def change_tree(rng: random.Random, value: Any) -> Any:
    """JSON or YAML values, changed in one place: any of them, or any entry, alike."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places:
        return rng.choice(_VALUES)
    container, key = rng.choice(places)
    match rng.randrange(12):
        case 0:
            del container[key]
        case 1 if isinstance(container, dict):
            container[rng.choice(_WORDS)] = container.pop(key)
        case 2 if isinstance(container, dict):
            container[rng.choice(_WORDS)] = rng.choice(_VALUES)
        case 3:
            container[key] = {rng.choice(_WORDS): container[key]}
        case 4:
            other, other_key = rng.choice(places)
            container[key] = copy.deepcopy(other[other_key])
        case 5 if isinstance(container, list):
            container.insert(key, rng.choice(_VALUES))
        case 6 if isinstance(container[key], int):
            container[key] += rng.choice((-1, 1, 2, 4))
        case _:
            container[key] = rng.choice(_VALUES)
    return value


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys."""
    if depth > 20 or not isinstance(value, dict | list):
        return
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        yield from _places(value[key], depth + 1)


def change_json(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.15:
        return change_bytes(rng, data)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return change_bytes(rng, data)
    for _ in range(rng.choice((1, 1, 1, 3))):
        value = change_tree(rng, value)
    return json.dumps(value).encode("utf-8", "surrogatepass")


_YAML = [
    b"&a [*a]",
    b"!!python/object:os.system {}",
    b"!!binary =",
    b"2024-13-45",
    b"!!int ''",
    b"? {a: 1}: 2",
    b"*x",
    b"<<: *x",
]
_YAML += [
    b"!!set {a}",
    b"!!timestamp x",
    b"!!float ''",
    b"[" * 2000,
    b"{a: " * 500,
    b"- " * 500,
    b".inf",
    b"0x" + b"f" * 400,
]


def change_yaml(rng: random.Random, data: bytes) -> bytes:
    match rng.randrange(4):
        case 0:
            return change_bytes(rng, data)
        case 1:
            lines = data.split(b"\n")
            at = rng.randrange(len(lines))
            lines[at] = lines[at].partition(b":")[0] + b": " + rng.choice(_YAML)
            return b"\n".join(lines)
        case _:
            try:
                value = change_tree(rng, yaml.safe_load(data))
                return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")
            except Exception:  # YAML cannot write what it cannot read
                return change_bytes(rng, data)


def change_safetensors(rng: random.Random, data: bytes) -> bytes:
    if len(data) < 8 or rng.random() < 0.15:
        return change_bytes(rng, data)
    length = int.from_bytes(data[:8], "little")
    header = change_json(rng, data[8 : 8 + length])
    stated = len(header) if rng.random() < 0.9 else rng.choice(_NUMBERS) % 2**64
    return stated.to_bytes(8, "little") + header + data[8 + length :]
