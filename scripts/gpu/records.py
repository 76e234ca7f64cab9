"""Measurements as lines of JSON, each written the moment it exists: a command that is cut off loses none."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Record:
    """One measurement. Times are in seconds."""

    what: str
    """`mlstm_step`."""
    of: dict[str, Any]
    """What was measured: `{"shape": "7B", "batch": 1}`."""
    result: dict[str, Any]
    """Numbers by name; or `failure`, what happened in their place."""
    on: dict[str, Any]
    """`device`, `driver`, `cuda`, `torch`, `triton`, `commit`, `date`."""

    @property
    def key(self) -> tuple[object, ...]:
        """What a later measurement of the same thing shares."""
        return self.on["device"], self.what, *sorted(self.of.items())

    @property
    def failure(self) -> str | None:
        return self.result.get("failure")

    def __str__(self) -> str:
        of = " ".join(f"{name} {value}" for name, value in self.of.items())
        return f"{self.what} {of}: {', '.join(f'{name} {_short(value)}' for name, value in self.result.items())}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def append(path: Path, record: Record) -> None:
    """Print it, and write it at the end of the file."""
    print(record, flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(record)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Record]:
    """What the file holds, in its order; nothing where there is none. Half a line is the end of a run that was killed
    while it wrote."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(Record(**json.loads(line)))
        except json.JSONDecodeError:
            continue
    return records


def latest(records: Iterable[Record]) -> list[Record]:
    """Of each measurement the last one."""
    return list({record.key: record for record in records}.values())


def here(facts: dict[str, Any]) -> dict[str, Any]:
    """A record's `on`: the facts that the device and its software gave, and what the code is."""
    return {**facts, "commit": commit(), "date": str(datetime.date.today())}


def commit() -> str:
    """Of this tree, `-dirty` where files differ from it; where there is no git, a checksum."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"unknown, plugins/ {native_checksum()}"


def native_checksum() -> str:
    """Of all native sources in this tree."""
    checksum = hashlib.sha256()
    for path in sorted((ROOT / "plugins").rglob("*")):
        if path.is_file():
            checksum.update(f"{path.relative_to(ROOT)}\n".encode())
            checksum.update(path.read_bytes())
    return checksum.hexdigest()[:10]
