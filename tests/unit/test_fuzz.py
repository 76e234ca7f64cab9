"""Whatever the bytes are, reading them ends in something read or in one message: a taste of `support.fuzz`."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from support.fuzz import SEEDS, TARGETS, inputs, outcome

COUNT = 60


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_before_they_are_changed_are_read_or_hostile(name: str):
    accepted = TARGETS[name].inputs()
    assert accepted and all(outcome(TARGETS[name], data) is None for data in accepted)


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_are_read_or_refused_with_one_message(name: str):
    for data in itertools.islice(inputs(TARGETS[name], seed=0), COUNT):
        assert outcome(TARGETS[name], data) is None, data[:200]


@pytest.mark.parametrize("path", sorted(SEEDS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_input_that_once_was_a_finding_is_one_no_more(path: Path):
    assert outcome(TARGETS[path.parent.name], path.read_bytes()) is None
