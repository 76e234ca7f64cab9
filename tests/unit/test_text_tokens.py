"""Which tokens begin and end a text: what each file beside the weights says, and which of them wins."""

from __future__ import annotations

import json

import pytest
import yaml
from support.upstream_models import VARIANTS

from xlstm_export.bundle import Bundle
from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.checkpoints.files.text_tokens import read_text_tokens
from xlstm_export.exporter import export_bundle

TOKENIZER = {"added_tokens": [{"id": 7, "content": "<|endoftext|>"}, {"id": 3, "content": "<s>"}], "model": {}}


def write(folder, **files):
    for name, values in files.items():
        stem, _, suffix = name.rpartition("_")
        path = folder / f"{stem}.{suffix}"
        path.write_text(values if isinstance(values, str) else json.dumps(values))
    return [folder]


def read(folder, vocabulary=97, **files):
    found = read_text_tokens(write(folder, **files), vocabulary)
    return found.bos, found.eos, found.notes


def test_folder_without_files_says_nothing(tmp_path):
    assert read(tmp_path) == (None, (), ())


def test_id_alone_does_not_put_a_token_first(tmp_path):
    assert read(tmp_path, config_json={"bos_token_id": 0, "eos_token_id": 2}) == (None, (2,), ())


def test_models_of_nx_ai_begin_with_their_token(tmp_path):
    config = {"bos_token_id": 0, "eos_token_id": 2, "force_bos_token_insert": True}
    assert read(tmp_path, config_json=config) == (0, (2,), ())
    assert read(tmp_path, config_json="", config_yaml=yaml.safe_dump(config)) == (0, (2,), ())


def test_tokenizers_that_put_a_token_first_say_so(tmp_path):
    files = {"tokenizer_json": TOKENIZER, "tokenizer_config_json": {"add_bos_token": True, "bos_token": "<s>"}}
    assert read(tmp_path, **files) == (3, (), ())


def test_generation_config_goes_before_config_and_that_before_the_tokenizer(tmp_path):
    tokenizer = {"eos_token": {"content": "<|endoftext|>", "lstrip": False}}
    assert read(tmp_path, tokenizer_json=TOKENIZER, tokenizer_config_json=tokenizer)[1] == (7,)
    assert read(tmp_path, config_json={"eos_token_id": 2})[1] == (2,)
    assert read(tmp_path, generation_config_json={"eos_token_id": [5, 6]})[1] == (5, 6)
    assert read(tmp_path, generation_config_json={"eos_token_id": None})[1] == (2,)


@pytest.mark.parametrize("told", [97, -1, "two", 2.0, True, [2, 500], {"id": 2}])
def test_token_that_the_vocabulary_does_not_have_is_a_note(told, tmp_path):
    bos, eos, notes = read(tmp_path, config_json={"eos_token_id": told})
    assert bos is None and eos == ((2,) if told == [2, 500] else ())
    assert len(notes) == 1 and "config.json" in notes[0] and "vocabulary of 97" in notes[0]


@pytest.mark.parametrize("text", ["{", "[1]", "\x00", "null", '"eos"'])
def test_file_that_cannot_be_read_says_nothing(text, tmp_path):
    assert read(tmp_path, config_json=text, generation_config_json=text, tokenizer_json=text) == (None, (), ())


@pytest.mark.parametrize("name", ["a-mixed", "b-single", "c-single"])
def test_tokenizer_and_ends_of_text_travel_for_every_family(name, tmp_path):
    variant = VARIANTS[name]
    checkpoint = variant.save(variant.build(seed=0), tmp_path / "run" / "checkpoint-500")
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    write(folder.parent if folder.name == "checkpoint-500" else folder, tokenizer_json=TOKENIZER)
    write(folder, generation_config_json={"eos_token_id": [5, 6], "bos_token_id": 1, "force_bos_token_insert": True})
    export_bundle(open_checkpoint(checkpoint), tmp_path / "bundle")
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert (manifest.bos_token_id, manifest.eos_token_ids, manifest.tokenizer) == (1, (5, 6), "tokenizer.json")
    assert json.loads((tmp_path / "bundle" / "tokenizer.json").read_text()) == TOKENIZER
