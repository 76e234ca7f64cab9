"""`/v1/completions` over HTTP on 127.0.0.1: answers, streams, errors, and conversations; without Ray."""

from __future__ import annotations

import json
import os
import time

import pytest
from support.http_server import serving, wait_until

from xlstm_export import Sampling, generate
from xlstm_export.bundle import Bundle
from xlstm_export.errors import ErrorKind, UserError
from xlstm_export.runtime import open_session
from xlstm_export.runtime.tokenizers import ByteTokenizer
from xlstm_export.server.conversations import Conversations
from xlstm_export.server.language_model import LanguageModel

PROMPT = "And it came to pass "


@pytest.fixture(scope="module")
def kjv(demo_bundle):
    return Bundle.open(demo_bundle)


def open_model(bundle, folder, slots=4, queue=8):
    session = open_session(bundle, batch=slots)
    return LanguageModel("kjv", session, ByteTokenizer(), queue, Conversations(folder, 3600))


@pytest.fixture(scope="module")
def model(kjv, tmp_path_factory):
    return open_model(kjv, tmp_path_factory.mktemp("states"))


@pytest.fixture(scope="module")
def client(model):
    with serving(model) as client:
        yield client


def test_answer_is_what_generate_gives_with_the_numbers_of_tokens(client, kjv):
    answer = client.ask(model="kjv", prompt=PROMPT, max_tokens=30, temperature=0)
    (choice,) = answer["choices"]
    expected = "".join(generate(kjv, PROMPT, 30, Sampling(0)))
    assert choice == {"text": expected, "index": 0, "logprobs": None, "finish_reason": "length"}
    assert answer["usage"] == {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50}
    assert (answer["object"], answer["model"], answer["id"][:5]) == ("text_completion", "kjv", "cmpl-")


def test_seed_gives_the_same_text_again_and_none_another(client, kjv):
    asked = {"model": "kjv", "prompt": PROMPT, "max_tokens": 30, "top_p": 0.9}
    texts = [client.ask(**asked, **seed)["choices"][0]["text"] for seed in ({"seed": 5}, {"seed": 5}, {}, {})]
    assert texts[0] == texts[1] == "".join(generate(kjv, PROMPT, 30, Sampling(1.0, 0, 0.9, 5)))
    assert len({*texts}) == 3


def test_stream_joins_to_the_answer_and_ends_with_the_reason(client):
    asked = {"model": "kjv", "prompt": PROMPT, "max_tokens": 20, "temperature": 0}
    whole = client.ask(**asked)
    events = [*client.stream(**asked, stream_options={"include_usage": True})]
    *pieces, last, counted = events
    assert "".join(event["choices"][0]["text"] for event in pieces) == whole["choices"][0]["text"] and len(pieces) == 20
    assert last["choices"][0]["finish_reason"] == "length"
    assert counted["choices"] == [] and counted["usage"] == whole["usage"]
    assert len({event["id"] for event in events}) == 1
    assert all("usage" not in event for event in client.stream(**asked))


def test_stop_text_ends_the_answer_before_it(client):
    text = client.ask(model="kjv", prompt=PROMPT, max_tokens=40, temperature=0)["choices"][0]["text"]
    stop = text[10:13]
    (choice,) = client.ask(model="kjv", prompt=PROMPT, max_tokens=40, temperature=0, stop=[stop, "~"])["choices"]
    assert choice["text"] == text[: text.index(stop)] and choice["finish_reason"] == "stop"


def test_prompt_of_tokens_is_that_of_their_text_and_echo_repeats_the_prompt(client):
    asked = {"model": "kjv", "max_tokens": 10, "temperature": 0}
    text = client.ask(**asked, prompt=PROMPT)["choices"][0]["text"]
    for prompt in (list(PROMPT.encode()), [list(PROMPT.encode())], [PROMPT]):
        assert client.ask(**asked, prompt=prompt)["choices"][0]["text"] == text
    assert client.ask(**asked, prompt=PROMPT, echo=True)["choices"][0]["text"] == PROMPT + text
    assert "".join(e["choices"][0]["text"] for e in client.stream(**asked, prompt=PROMPT, echo=True)) == PROMPT + text


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": None}, "prompt", "prompt is missing"),
        ({"prompt": ""}, "prompt", "The prompt is empty"),
        ({"prompt": ["a", "b"]}, "prompt", "Send several in requests of their own"),
        ({"prompt": [True]}, "prompt", "not one text, or the tokens of one"),
        ({"prompt": [256]}, None, "token 256 is not in the vocabulary of 256"),
        ({"max_tokens": 0}, "max_tokens", "not a number from 1"),
        ({"max_tokens": 1.5}, "max_tokens", "not a number from 1"),
        ({"temperature": 2.5}, "temperature", "not a number from 0 to 2"),
        ({"top_p": 0}, "top_p", "not a number above 0 and up to 1"),
        ({"stop": ["a"] * 5}, "stop", "up to 4 texts"),
        ({"n": 2}, "n", "n is not supported here"),
        ({"logprobs": 1}, "logprobs", "logprobs is not supported here"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "frequency_penalty is not supported here"),
        ({"stream": "yes"}, "stream", "not true or false"),
        ({"prompt": [1], "echo": True}, "echo", "echo needs a prompt that is a text"),
        ({"temprature": 1}, "temprature", "Unrecognized request argument supplied: temprature"),
        ({"state": "../../secret"}, None, "is not the name of a state"),
        ({"state": f"state-{0:032x}"}, None, "cannot be read: it was never here"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_request_is_answered_with_what_is_wrong(fields, param, message, client, model):
    error = client.ask(400, **({"model": "kjv", "prompt": PROMPT} | fields))["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param) and message in error["message"]
    wait_until(lambda: model.batcher.open_sequences == 0)


def test_values_that_ask_for_nothing_are_taken(client):
    inert = {"n": 1, "best_of": 1, "logprobs": None, "logit_bias": {}, "presence_penalty": 0.0, "suffix": None}
    client.ask(model="kjv", prompt=PROMPT, max_tokens=1, user="somebody", **inert)


def test_body_that_is_no_object_and_paths_that_are_not_here_are_refused(client):
    for body, message in ((b"{", "not JSON"), (b"[1]", "not a JSON object"), (b"[" * 100_000, "not JSON")):
        response = client.request("POST", client.path, body)
        assert response.status == 400 and message in json.loads(response.read())["error"]["message"]
    assert client.request("POST", client.path, b" " * (17 << 20)).status == 413
    assert client.request("GET", "/v1/chat").status == 404 and client.request("PUT", "/v1/models").status == 405
    error = client.ask(404, model="gpt", prompt="x")["error"]
    assert error["code"] == "model_not_found"
    models = json.loads(client.request("GET", "/v1/models").read())
    assert [one["id"] for one in models["data"]] == ["kjv"]
    assert json.loads(client.request("GET", "/v1/models/kjv").read()) == models["data"][0]


def test_conversation_goes_on_in_another_process_as_if_nothing_had_happened(client, model, kjv):
    greedy = {"model": "kjv", "temperature": 0}
    whole = client.ask(**greedy, prompt=PROMPT, max_tokens=24)["choices"][0]["text"]
    first = client.ask(**greedy, prompt=PROMPT, max_tokens=9, keep_state=True)
    assert first["choices"][0]["text"] == whole[:9]
    with serving(open_model(kjv, model._conversations._folder)) as other:  # reads what the first one wrote
        for where in (other, client, other):  # and a request may be sent again
            *_, last = where.stream(**greedy, prompt=" And", max_tokens=8, state=first["state"], keep_state=True)
            second = where.ask(**greedy, prompt="x", max_tokens=5, state=last["state"])
            texts = {second["choices"][0]["text"]}
    assert len(texts) == 1
    told = client.ask(**greedy, prompt=PROMPT + whole[:9] + " And", max_tokens=8)["choices"][0]["text"]
    again = client.ask(**greedy, prompt=" And", max_tokens=8, state=first["state"])["choices"][0]["text"]
    assert again == told


def test_client_that_vanishes_frees_its_slot(client, model):
    stream = client.stream(model="kjv", prompt=PROMPT, max_tokens=10**6)
    next(stream)
    assert model.batcher.pool.taken == 1
    stream.close()
    wait_until(lambda: model.batcher.pool.taken == 0)


def test_full_server_says_when_to_try_again(kjv, tmp_path):
    model = open_model(kjv, tmp_path, slots=1, queue=1)
    with serving(model) as client:
        endless = {"model": "kjv", "prompt": PROMPT, "max_tokens": 10**6}
        streams = [client.stream(**endless)]
        next(streams[0])
        sequence = model.batcher.open()  # waits
        response = client.request("POST", client.path, endless)
        error = json.loads(response.read())["error"]
        assert (response.status, response.headers["retry-after"]) == (429, "1")
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert "All 1 slots are taken, and 1 sequences wait" in error["message"]
        sequence.close()
        streams[0].close()
        wait_until(lambda: model.batcher.open_sequences == 0)
        client.ask(model="kjv", prompt=PROMPT, max_tokens=1)


def test_failure_in_the_middle_is_an_event_of_the_stream_and_the_server_goes_on(kjv, tmp_path, monkeypatch):
    model = open_model(kjv, tmp_path)
    with serving(model) as client:
        stream = client.stream(model="kjv", prompt=PROMPT, max_tokens=10**6)
        next(stream)

        def fail(*_):
            raise UserError(ErrorKind.runtime, "the device is gone")

        with monkeypatch.context() as broken:
            broken.setattr(model.batcher.pool.session, "_run", fail)
            *_, last = stream
        assert last["error"]["type"] == "server_error" and "the device is gone" in last["error"]["message"]
        client.ask(model="kjv", prompt=PROMPT, max_tokens=2)


def test_only_the_newest_states_are_in_memory_and_the_others_are_read_from_their_files(tmp_path, monkeypatch):
    monkeypatch.setattr("xlstm_export.server.conversations._CACHED_BYTES", 10)
    kept = Conversations(tmp_path, 100)
    names = [kept.save(state) for state in (b"12345", b"67890", b"more than ten bytes", b"last")]
    for path in tmp_path.iterdir():
        path.write_bytes(b"file")
    assert [kept.load(name) for name in reversed(names)] == [b"last", b"file", b"file", b"file"]


def test_states_that_nobody_went_on_from_are_removed_and_those_in_use_are_not(tmp_path, monkeypatch):
    kept = Conversations(tmp_path, keep_seconds=100)
    old, used = kept.save(b"old"), kept.save(b"used")
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - 200,) * 2)
    assert kept.load(used) == b"used"
    monkeypatch.setattr(kept, "_swept", 0.0)
    kept.save(b"new")
    assert Conversations(tmp_path, 100).load(used) == b"used" and len([*tmp_path.iterdir()]) == 2
    with pytest.raises(UserError, match="cannot be read: it was never here, or nobody went on from it for too long"):
        kept.load(old)
