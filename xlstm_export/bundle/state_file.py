"""Saved states: the byte format of FORMAT.md, which the C++ library reads and writes too."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import google_crc32c
import numpy as np

from ..errors import ErrorKind, UserError
from ..whole_file import write_whole
from .bundle import Bundle

_MAGIC = b"\x89XLSTM\r\n"
_VERSION = 1
_BODY = 24
"""Bytes before what the announced size counts."""
_CHECKED_FROM = 16


def encode_states(bundle: Bundle, batch: int, states: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a saved state.

    Args:
        states: by name, (batch, ...) float32: as `Session.read_states` gives them.
    """
    payload = b"".join(np.ascontiguousarray(states[s.input], "<f4").tobytes() for s in bundle.manifest.states)
    body = _header(bundle, batch) + payload
    checked = struct.pack("<Q", len(body)) + body
    return _MAGIC + struct.pack("<II", _VERSION, google_crc32c.value(checked)) + checked


def decode_states(bundle: Bundle, batch: int, data: bytes, where: str) -> dict[str, np.ndarray]:
    """The states by name, (batch, ...) float32, from the bytes of a saved state; `where` names them in messages.

    Raises:
        UserError: of kind `state`: not a saved state, damaged, or of another model or batch.
    """
    if len(data) < _BODY or data[:8] != _MAGIC:
        raise _refusal(where, "is not a saved state: it does not begin like one.")
    version, checksum, announced = struct.unpack_from("<IIQ", data, 8)
    if version != _VERSION:
        raise _refusal(
            where,
            f"has format version {version}; this xlstm-export reads version {_VERSION}. "
            "Load it with the version that saved it.",
        )
    present = len(data) - _BODY
    if present != announced:
        wrong = "truncated" if present < announced else "too long"
        raise _refusal(where, f"is {wrong}: {present} bytes of {announced} follow its beginning. Copy it again.")
    if checksum != google_crc32c.value(bytes(data[_CHECKED_FROM:])):
        raise _refusal(where, "is damaged: its checksum does not match. Copy it again.")
    # From here on the bytes are what a writer wrote; only a wrong writer fails below.
    expected = _header(bundle, batch)
    body = data[_BODY:]
    if len(body) < 40:
        raise _refusal(where, "does not hold the states of this model.")
    if body[:32] != expected[:32]:
        raise _refusal(
            where,
            "was saved by another model (its weights or architecture differ). Load it into the model that saved it.",
        )
    if body[32:36] != expected[32:36]:
        saved = struct.unpack_from("<I", body, 32)[0]
        raise _refusal(where, f"holds {saved} sequences; this session has a batch of {batch}.")
    shapes = {state.input: state.sized(batch) for state in bundle.manifest.states}
    sizes = {name: 4 * int(np.prod(shape)) for name, shape in shapes.items()}
    if not body.startswith(expected) or len(body) != len(expected) + sum(sizes.values()):
        raise _refusal(where, "does not hold the states of this model.")
    states, at = {}, len(expected)
    for name, shape in shapes.items():
        values = np.frombuffer(body, "<f4", sizes[name] // 4, at)
        states[name] = values.reshape(shape).astype(np.float32)
        at += sizes[name]
    return states


def write_states(path: Path, data: bytes) -> None:
    """Write a saved state, whole or not at all."""
    write_whole(path, lambda partial: partial.write_bytes(data))


def _header(bundle: Bundle, batch: int) -> bytes:
    """Model, batch and shapes."""
    states = bundle.manifest.states
    header = bytes.fromhex(bundle.model_hash) + struct.pack("<II", batch, len(states))
    for state in states:
        shape = state.sized(batch)[1:]
        header += struct.pack(f"<{1 + len(shape)}I", len(shape), *shape)
    return header


def _refusal(where: str, why: str) -> UserError:
    return UserError(ErrorKind.state, f"{where} {why}")
