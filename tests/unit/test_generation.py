"""Generation: where a text begins and ends, and how its pieces join."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.corpus import GOOD
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from xlstm_export.bundle import Bundle
from xlstm_export.bundle.manifest import parse_manifest
from xlstm_export.bundle.strict_json import read_json
from xlstm_export.errors import UserError
from xlstm_export.runtime.generation import Generation, TextGeneration
from xlstm_export.runtime.sampling import Sampler, Sampling
from xlstm_export.runtime.session import Session
from xlstm_export.runtime.states import HostMemory, RowStates
from xlstm_export.runtime.tokenizers import ByteTokenizer, HuggingFaceTokenizer, open_tokenizer


class Scripted(Session):
    """Its logits put the next token of a script first; it remembers what it was fed."""

    def __init__(self, script, vocabulary=256, **manifest):
        path = GOOD["manifest/both.json"]
        read = parse_manifest(read_json(path, ""), "manifest")
        bundle = Bundle(path.parent, replace(read, vocab_size=vocabulary, **manifest))
        super().__init__(bundle, RowStates(bundle.manifest, 1, HostMemory))
        self.script, self.fed, self.closed = iter(script), [], False

    def feed(self, inputs, lengths=None, rows=None):
        self.fed += inputs[0].tolist()
        logits = np.zeros((1, 1, self.manifest.vocab_size), np.float32)
        logits[0, 0, next(self.script, 0)] = 1
        return logits

    def prefill(self, prompts, chunk=None, progress=None):
        return self.feed(np.asarray(prompts))

    def _run(self, given, rows, turn):
        raise NotImplementedError

    def close(self):
        self.closed = True


def generate(session, prompt, count=20, **options):
    return Generation(session, prompt, count, Sampler(Sampling(temperature=0)), **options)


def test_text_begins_with_the_models_first_token_exactly_once():
    for prompt in ([7, 8], [3, 7, 8]):
        session = Scripted([1, 2], bos_token_id=3)
        assert list(generate(session, prompt, 2)) == [1, 2]
        assert session.fed == [3, 7, 8, 1]
    session = Scripted([1], bos_token_id=3)
    assert list(generate(session, [], 1)) == [1] and session.fed == [3]


def test_empty_prompt_of_a_model_without_a_first_token_is_refused():
    with pytest.raises(UserError, match="The prompt is empty"):
        generate(Scripted([1]), [])


def test_text_ends_where_the_model_ends_it_unless_told_to_go_on():
    ended = generate(Scripted([1, 2, 9, 4], eos_token_ids=(8, 9)), [7], 4)
    assert list(ended) == [1, 2]
    assert (ended.stats.new_tokens, ended.stats.end) == (3, "the model ended the text")
    session = Scripted([1, 2, 9, 4], eos_token_ids=(8, 9))
    assert list(generate(session, [7], 4, ignore_eos=True)) == [1, 2, 9, 4] and session.fed == [7, 1, 2, 9]


@pytest.mark.parametrize(
    ("stops", "text"),
    [
        ((), "one two three"),
        (("two",), "one "),
        (("three", "two"), "one "),
        (("o t",), "one tw"),
        (("e", "one"), ""),
        (("threes", "nothing"), "one two three"),
        (("",), "one two three"),
        (("ee",), "one two thr"),
    ],
)
def test_text_ends_before_the_first_stop(stops, text):
    session = Scripted(b"one two three")
    pieces = list(TextGeneration(generate(session, [0], 13), ByteTokenizer(), stops))
    assert "".join(pieces) == text
    assert session.closed


def test_half_a_stop_is_held_back_until_it_is_none():
    session = Scripted(b"abac!")
    pieces = iter(TextGeneration(generate(session, [0], 5), ByteTokenizer(), ("abab",)))
    shown = [next(pieces) for _ in range(4)]
    assert shown == ["", "", "", "abac"]


def words(path: Path, count: int) -> Path:
    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(count)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(path))
    return path


def test_first_piece_keeps_its_space(tmp_path):
    tokenizer = HuggingFaceTokenizer(words(tmp_path / "tokenizer.json", 200))
    session = Scripted([186, 5])
    pieces = list(TextGeneration(generate(session, tokenizer.encode("w5 w7"), 2), tokenizer))
    assert "w5 w7" + "".join(pieces) == "w5 w7 w186 w5"


def test_long_text_of_words_keeps_all_its_spaces(tmp_path):
    tokenizer = HuggingFaceTokenizer(words(tmp_path / "tokenizer.json", 200))
    tokens = [i % 199 + 1 for i in range(300)]
    assert "".join(tokenizer.decode_stream(tokens)) == " ".join(f"w{t}" for t in tokens)


def test_named_tokenizer_goes_before_the_bundles_own(tmp_path):
    bundle = Scripted([]).bundle
    with pytest.raises(UserError, match="--tokenizer"):
        open_tokenizer(bundle)
    assert open_tokenizer(bundle, words(tmp_path / "t.json", 9)).encode("w3 w4") == [3, 4]
