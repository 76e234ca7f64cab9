"""Text becomes rows of consecutive tokens, and unusable text a message."""

from dataclasses import replace

import numpy as np
import pytest

from xlstm_export.bundle import Bundle
from xlstm_export.bundle.manifest import Manifest, Source, TensorSpec
from xlstm_export.errors import UserError
from xlstm_export.modeling.architecture import Architecture
from xlstm_export.validation.texts import read_text

MANIFEST = Manifest(
    "xlstm",
    "float32",
    "step",
    None,
    (TensorSpec("tokens", "int64", ("batch", 1)),),
    None,
    (TensorSpec("logits", "float32", ("batch", 1, 256)),),
    (),
    "bytes",
    256,
    Architecture(8, (), 256, False, None, 1e-5).to_dict(),
    Source("x", None),
    (),
    {},
)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcdefghij", "utf-8")
    return path


def test_rows_are_consecutive_pieces_and_targets_the_next_token(text):
    tokens = read_text(text, Bundle(text.parent, MANIFEST), rows=3, steps=3)
    assert tokens.inputs.T.tolist() == [[*b"abc"], [*b"def"], [*b"ghi"]]
    assert tokens.targets.T.tolist() == [[*b"bcd"], [*b"efg"], [*b"hij"]]
    assert tokens.inputs.dtype == np.int64 and tokens.bytes == 9


def test_a_short_text_gives_fewer_steps(text):
    assert read_text(text, Bundle(text.parent, MANIFEST), rows=2, steps=100).steps == 4


def test_bytes_of_a_subword_tokenizer_are_those_of_the_predicted_text(text):
    tokenizers = pytest.importorskip("tokenizers")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"über": 0, "den": 1, "Fluß": 2}, unk_token="über"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.save(str(text.parent / "tokenizer.json"))
    text.write_text("über den Fluß", "utf-8")
    manifest = replace(MANIFEST, tokenizer="tokenizer.json", vocab_size=3)
    tokens = read_text(text, Bundle(text.parent, manifest), rows=1, steps=10)
    assert tokens.inputs[:, 0].tolist() == [0, 1]
    assert tokens.bytes == len("den Fluß".encode())


@pytest.mark.parametrize(
    "change, content, message",
    [
        ({}, b"ab", "3 rows need 4 at least"),
        ({}, b"\xff\xfe\x00abcdefgh", "cannot be read as UTF-8"),
        ({"vocab_size": None}, b"abcdefgh", "block stack"),
        ({"vocab_size": 98}, b"abcdefgh", "another model's tokenizer"),
        ({"tokenizer": None}, b"abcdefgh", "no tokenizer"),
    ],
)
def test_unusable_text_is_a_message(text, change, content, message):
    text.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_text(text, Bundle(text.parent, replace(MANIFEST, **change)), rows=3, steps=2)


def test_a_missing_file_is_a_message(text):
    with pytest.raises(UserError, match="nowhere.txt"):
        read_text(text.parent / "nowhere.txt", Bundle(text.parent, MANIFEST), rows=1, steps=1)
