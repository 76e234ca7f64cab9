"""The files of `tests/good_bundles` and `tests/bad_bundles`, and what Python's reader says of one."""

from __future__ import annotations

import json
from pathlib import Path

from support.paths import ROOT
from xlstm_export.bundle import Bundle
from xlstm_export.bundle.engine_record import parse_record
from xlstm_export.bundle.manifest import parse_manifest
from xlstm_export.bundle.state_file import decode_states
from xlstm_export.bundle.strict_json import read_json
from xlstm_export.errors import UserError

_GOOD, _BAD = ROOT / "tests" / "good_bundles", ROOT / "tests" / "bad_bundles"
STATE_MANIFEST = _GOOD / "manifest" / "both.json"
"""Of the model that the saved states are held against."""
STATE_BATCH = 2


def _files(folder: Path) -> dict[str, Path]:
    paths = sorted(path for path in folder.glob("*/*") if path.is_file())
    return {str(path.relative_to(folder)): path for path in paths}


GOOD, BAD = _files(_GOOD), _files(_BAD)
KINDS: dict[str, str] = json.loads((_BAD / "kinds.json").read_text())


def read(name: str, path: Path) -> None:
    """Read a file as what its folder says it is."""
    kind = name.partition("/")[0]
    if kind == "state":
        model = Bundle(STATE_MANIFEST.parent, parse_manifest(read_json(STATE_MANIFEST, ""), str(STATE_MANIFEST)))
        decode_states(model, STATE_BATCH, path.read_bytes(), str(path))
        return
    parse = {"manifest": parse_manifest, "engine": parse_record}[kind]
    parse(read_json(path, "Make it again."), str(path))


def check(name: str, path: Path) -> str:
    """`ok`, or the kind of error."""
    try:
        read(name, path)
    except UserError as error:
        return error.kind.name
    return "ok"
