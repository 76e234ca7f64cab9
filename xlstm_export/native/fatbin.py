"""Which GPU architectures a library carries code for, read from the file itself.

nvcc puts the device code into the ELF section `.nv_fatbin`: containers, each a 16-byte header (magic, version, header
size, size of what follows) before entries for one architecture each (kind, header size, size, ..., architecture).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_CONTAINER_MAGIC = 0xBA55ED50
_PTX, _MACHINE_CODE = 1, 2


def architectures(library: Path) -> tuple[str, ...]:
    """Such as `("sm_80", "sm_90", "compute_90")`: machine code by number, then PTX; empty without device code.

    Raises:
        ValueError: not a 64-bit ELF file, or device code in a form this does not know.
    """
    section = elf_section(library.read_bytes(), ".nv_fatbin")
    found = set(_entries(section)) if section else set()
    numbers = {_MACHINE_CODE: "sm_", _PTX: "compute_"}
    return tuple(numbers[kind] + str(number) for kind, number in sorted(found, key=lambda e: (-e[0], e[1])))


def elf_section(data: bytes, name: str) -> bytes:
    """The bytes of a section, empty if there is none.

    Raises:
        ValueError: not a little-endian 64-bit ELF file.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a little-endian 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    # Of each section header: name offset, and the section's offset and size in the file.
    sections = []
    for index in range(count):
        (name_offset,) = struct.unpack_from("<I", data, table + index * size)
        sections.append((name_offset, *struct.unpack_from("<QQ", data, table + index * size + 0x18)))
    names = sections[names_index][1]
    for name_offset, offset, length in sections:
        start = names + name_offset
        if data[start : data.index(b"\0", start)] == name.encode():
            return data[offset : offset + length]
    return b""


def _entries(section: bytes) -> Iterator[tuple[int, int]]:
    """(kind, architecture number) of every entry."""
    position = 0
    while position + 16 <= len(section):
        magic, _, header, size = struct.unpack_from("<IHHQ", section, position)
        if magic == 0:  # containers are padded to 8 bytes
            position += 8
            continue
        if magic != _CONTAINER_MAGIC:
            raise ValueError(f"unknown device code container {magic:#x}")
        entry, end = position + header, position + header + size
        while entry < end:
            kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", section, entry)
            if kind not in (_PTX, _MACHINE_CODE):
                raise ValueError(f"unknown kind of device code {kind}")
            (number,) = struct.unpack_from("<I", section, entry + 28)
            yield kind, number
            entry += entry_header + entry_size
        position = end
