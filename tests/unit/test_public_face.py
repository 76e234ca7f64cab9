"""The Python functions where they decide something themselves; what they call is tested where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlstm_export import Bundle, UserError, api
from xlstm_export.errors import ErrorKind
from xlstm_export.native.locate import FOLDER_VARIABLE, ONNXRUNTIME_LIBRARY


@pytest.mark.parametrize("there", [True, False])
def test_sessions_take_the_library_that_is_found(tmp_path: Path, monkeypatch, demo_bundle: Path, there: bool) -> None:
    taken: list[Path | None] = []
    monkeypatch.setattr(api, "_open_session", lambda bundle, runtime, batch, library, *_: taken.append(library))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    bundle, found = Bundle.open(demo_bundle), tmp_path / ONNXRUNTIME_LIBRARY
    mine = tmp_path / "mine.so"
    for library in (mine, found) if there else (mine,):
        library.touch()
    api.open_session(bundle)
    api.open_session(bundle, custom_ops="none")
    api.open_session(bundle, custom_ops=mine)
    api.open_session(bundle, runtime="tensorrt-rtx")
    assert taken == [found if there else None, None, mine, None]
    with pytest.raises(UserError, match="nowhere.so is not there") as caught:
        api.open_session(bundle, custom_ops="nowhere.so")
    assert caught.value.kind is ErrorKind.unavailable
