"""Every kind of bad checkpoint gets its one message, and nothing from it is run."""

from __future__ import annotations

import pytest
from support.bad_inputs import BAD_INPUTS, BadInput

from xlstm_export.checkpoints import ReadOptions, open_checkpoint
from xlstm_export.errors import UserError


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=[bad.name for bad in BAD_INPUTS])
def test_bad_input_is_refused_with_its_own_message(bad: BadInput, tmp_path, monkeypatch):
    folder = tmp_path / "input"
    folder.mkdir()
    path, config = bad.make(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(UserError) as caught:
        checkpoint = open_checkpoint(path, ReadOptions(config))
        assert bad.when_read, "accepted"
        for tensor in checkpoint.tensors.values():
            tensor.check()
    message = str(caught.value)
    assert bad.message in message
    assert str(folder) in message or bad.name == "tensor-in-two-shards", "the message names the file"
    assert not list(elsewhere.iterdir()), "reading a checkpoint wrote a file"


def test_bad_inputs_have_names_of_their_own():
    assert len({bad.name for bad in BAD_INPUTS}) == len(BAD_INPUTS) >= 30
