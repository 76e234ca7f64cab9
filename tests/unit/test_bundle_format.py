"""The Python reader of FORMAT.md: accepts every good file, refuses every bad one with its kind; C++: native_runtime."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.corpus import BAD, GOOD, KINDS, check, read

from xlstm_export.bundle import Bundle
from xlstm_export.bundle.bundle import _canonical
from xlstm_export.bundle.manifest import METADATA_KEY, parse_manifest
from xlstm_export.bundle.state_file import decode_states, encode_states
from xlstm_export.errors import ErrorKind, UserError


@pytest.mark.parametrize("name", GOOD)
def test_good_file_is_accepted(name):
    assert check(name, GOOD[name]) == "ok"


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_refused_with_its_kind(name):
    assert check(name, BAD[name]) == KINDS[name]


def test_every_bad_file_has_a_kind_and_every_kind_a_file():
    assert BAD.keys() == KINDS.keys()
    assert set(KINDS.values()) <= {kind.name for kind in ErrorKind}


@pytest.mark.parametrize("name", [name for name in BAD if name.startswith(("manifest", "engine"))])
def test_message_names_the_file_and_says_what_to_do(name):
    with pytest.raises(UserError) as error:
        read(name, BAD[name])
    message = str(error.value)
    assert BAD[name].name in message and message.rstrip(".").count(".") >= 1
    assert "again" in message and "Traceback" not in message and len(message) < 600


def test_manifest_with_missing_keys_names_them():
    data = json.loads(GOOD["manifest/both.json"].read_text())
    del data["states"], data["source"]
    with pytest.raises(UserError, match="m.json: states, source missing"):
        parse_manifest(data, "m.json")


def test_manifest_in_the_metadata_is_the_file(demo_bundle):
    bundle = Bundle.open(demo_bundle)
    properties = {p.key: p.value for p in bundle.graph.metadata_props}
    assert parse_manifest(json.loads(properties[METADATA_KEY]), "metadata") == bundle.manifest


def test_hash_of_a_model_is_over_the_text_that_the_format_defines():
    value = {"é": [1, 2.0, 1e-6, 1e15, 1.25e15, 1608033081899588.5, 0.0001, 1e16, -1e15, None, True], "a": {"b": "x\n"}}
    text = (
        r'{"a":{"b":"x\n"},"\u00e9":[1,2.0,1e-06,1e+15,1.25e+15,1.6080330818995885e+15,0.0001,1e+16,-1e+15,null,true]}'
    )
    assert _canonical(value) == text


def test_state_reads_back_as_it_was_written_and_no_flipped_bit_passes(demo_bundle):
    bundle, random = Bundle.open(demo_bundle), np.random.default_rng(0)
    states = {s.input: random.standard_normal(s.sized(2), np.float32) for s in bundle.manifest.states}
    data = encode_states(bundle, 2, states)
    for name, value in decode_states(bundle, 2, data, "it").items():
        np.testing.assert_array_equal(value, states[name])
    for bit in random.integers(0, 8 * len(data), 64):
        harmed = bytearray(data)
        harmed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UserError) as error:
            decode_states(bundle, 2, bytes(harmed), "it")
        assert error.value.kind is ErrorKind.state
