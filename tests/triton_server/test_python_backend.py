"""A language model in a real Triton server's Python back end: what clients ask over HTTP and gRPC.

Needs no GPU. The server is fetched from the package index, once (`conftest.py`).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http
from support.native import onnxruntime_operators
from support.triton_server import Installed, serve
from tritonclient.utils import InferenceServerException

from xlstm_export.api import generate
from xlstm_export.bundle import Bundle
from xlstm_export.runtime import open_session
from xlstm_export.runtime.sampling import Sampling
from xlstm_export.triton import write_repository

pytestmark = pytest.mark.slow
ROUNDING = 1e-4  # of logits of a few units: rows of a batch are multiplied together, a row alone by itself
TYPES = {"tokens": "INT64", "text": "BYTES", "restore": "UINT8"}
BRIEF_SECONDS = 1.5
names = count(1)  # of sequences: no test meets another's


@dataclass
class Client:
    """Asks one model, over one protocol."""

    package: Any
    address: str
    model: str = "kjv"

    def __post_init__(self) -> None:
        self._client = self.package.InferenceServerClient(self.address)

    def ask(self, name: int, *outputs: str, start=False, end=False, parameters=None, timeout=60, **inputs: Any):
        """The outputs by name. `tokens`, `text`, `restore` are inputs."""
        given = self.inputs(inputs)
        wanted = [self.package.InferRequestedOutput(output) for output in outputs]
        how = {"client_timeout": timeout} if self.package is tritonclient.grpc else {"timeout": timeout * 10**6}
        sequence = {"sequence_id": name, "sequence_start": start, "sequence_end": end, "parameters": parameters or {}}
        answer = self._client.infer(self.model, given, outputs=wanted, **sequence, **how)
        return {output: answer.as_numpy(output) for output in outputs}

    def inputs(self, given: dict[str, Any]) -> list[Any]:
        made = []
        for name, value in given.items():
            array = np.array([value.encode()], np.object_) if name == "text" else np.asarray(value)
            made.append(self.package.InferInput(name, list(array.shape), TYPES[name]))
            made[-1].set_data_from_numpy(array.astype(np.int64) if name == "tokens" else array)
        return made

    def logits(self, name: int, tokens: Any, **options: Any) -> np.ndarray:
        return self.ask(name, "logits", tokens=tokens, **options)["logits"]


@pytest.fixture(scope="module")
def repository(demo_bundle, tmp_path_factory):
    """Two models of the same bundle: `kjv`, and `brief` with two slots for sequences that soon fall silent."""
    folder, bundle = tmp_path_factory.mktemp("triton") / "repository", Bundle.open(demo_bundle)
    brief = write_repository(bundle, folder, "python", name="brief", sequences=2).model / "config.pbtxt"
    text = brief.read_text().replace("microseconds: 60000000", f"microseconds: {int(BRIEF_SECONDS * 1e6)}")
    brief.write_text(text)
    return write_repository(bundle, folder, "python", name="kjv", custom_ops=onnxruntime_operators())


@pytest.fixture(scope="module")
def python(triton: Installed, tmp_path_factory):
    return triton.make_python(tmp_path_factory.mktemp("python") / "environment")


@pytest.fixture(scope="module")
def server(triton: Installed, python, repository, tmp_path_factory):
    with serve(triton, python, repository.command, tmp_path_factory.mktemp("log") / "log") as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def client(server, request):
    return connect(server, request.param)


def connect(server, protocol: str = "grpc", model: str = "kjv") -> Client:
    return Client(getattr(tritonclient, protocol), getattr(server, protocol), model)


@pytest.fixture(scope="module")
def alone(demo_bundle) -> Callable[[list[Any]], list[np.ndarray]]:
    """What a sequence gets that has a session to itself: logits after each part that it reads."""
    session = open_session(Bundle.open(demo_bundle), custom_ops=onnxruntime_operators())

    def read(parts):
        session.reset()
        return [session.prefill([np.asarray(part)])[0, 0] for part in parts]

    return read


def test_sixty_four_interleaved_sequences_each_get_what_they_get_alone(server, alone):
    random = np.random.default_rng(0)
    texts = {next(names): random.integers(0, 256, int(random.integers(1, 300))) for _ in range(64)}
    parts = {name: [text, *random.integers(0, 256, (6, 1)), random.integers(0, 256, 9)] for name, text in texts.items()}
    clients = {name: connect(server, "http" if name % 2 else "grpc") for name in texts}
    got: dict[int, list[np.ndarray]] = {name: [] for name in texts}

    def whole(name):
        for index, part in enumerate(parts[name]):
            start, end = index == 0, index == len(parts[name]) - 1
            got[name].append(clients[name].logits(name, part, start=start, end=end))

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(whole, texts))
    for name in texts:
        np.testing.assert_allclose(got[name], alone(parts[name]), atol=ROUNDING, rtol=0)
    assert all(np.abs(got[a][-1] - got[b][-1]).max() > 0.1 for a, b in zip(texts, [*texts][1:], strict=False))


def test_text_in_pieces_is_the_text_in_one_and_the_one_of_generate(client, demo_bundle):
    sampling = {"temperature": "0.7", "top_k": 20, "seed": 3}
    expected = "".join(
        generate(Bundle.open(demo_bundle), "In the beginning ", 60, Sampling(0.7, 20, seed=3), ignore_eos=True)
    )
    whole, piecewise = next(names), next(names)

    def draw(name, most, **options):
        parameters = sampling | {"max_new_tokens": most}
        return client.ask(name, "new_text", parameters=parameters, **options)["new_text"][0].decode()

    assert draw(whole, 60, text="In the beginning ", start=True, end=True) == expected
    pieces = [draw(piecewise, 1, text="In the beginning ", start=True)]
    pieces += [draw(piecewise, most) for most in (1, 1, 7, 20)] + [draw(piecewise, 30, end=True)]
    assert "".join(pieces) == expected


def test_state_is_saved_and_restored_and_is_a_session_s_own(client, alone, demo_bundle, tmp_path):
    name, other, third = next(names), next(names), next(names)
    first, then = [1, 2, 3, 4], [[5], [6, 7]]
    expected = alone([first, *then])[1:]
    state = client.ask(name, "state", tokens=first, start=True)["state"]
    there = [client.logits(name, part) for part in then]
    restored = [
        client.logits(other, part, **({"start": True, "restore": state} if not i else {}))
        for i, part in enumerate(then)
    ]
    np.testing.assert_allclose(there, expected, atol=ROUNDING, rtol=0)
    np.testing.assert_allclose(restored, expected, atol=ROUNDING, rtol=0)
    (tmp_path / "state").write_bytes(state.tobytes())
    with open_session(Bundle.open(demo_bundle)) as session:
        session.load(tmp_path / "state")
        np.testing.assert_allclose(session.step(np.array([[5]]))[0, 0], expected[0], atol=ROUNDING, rtol=0)
        session.save(tmp_path / "state")
    saved = np.frombuffer((tmp_path / "state").read_bytes(), np.uint8)
    logits = client.logits(third, then[1], start=True, end=True, restore=saved)
    np.testing.assert_allclose(logits, expected[1], atol=ROUNDING, rtol=0)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"tokens": [3, 256]}, "token 256 is not in the vocabulary of 256"),
        ({"tokens": [-1]}, "token -1 is not in the vocabulary"),
        ({"tokens": [3], "parameters": {"max_new_tokens": -1}}, "max_new_tokens is -1: give a whole number"),
        ({"tokens": [3], "parameters": {"max_new_tokens": "many"}}, "max_new_tokens is 'many'"),
        ({"tokens": [3], "parameters": {"temperature": "-1"}}, "temperature is -1.0"),
        ({"tokens": [3], "parameters": {"top_q": 1}}, "There is no parameter 'top_q'"),
        ({"restore": np.zeros(100, np.uint8)}, "restored at the start of a sequence only"),
        ({"restore": np.zeros(100, np.uint8), "start": True}, "the saved state is not a saved state"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_bad_input_is_one_message_and_the_sequence_goes_on(asked, says, client, alone):
    name = next(names)
    client.logits(name, [1, 2], start=True)
    with pytest.raises(InferenceServerException, match=says):
        client.ask(name, "logits", **asked)
    if not asked.get("start"):
        np.testing.assert_allclose(client.logits(name, [4], end=True), alone([[1, 2], [4]])[1], atol=ROUNDING, rtol=0)


def test_nothing_to_go_on_from_is_said_so(client):
    name = next(names)
    with pytest.raises(InferenceServerException, match="nothing to go on from"):
        client.ask(name, "new_tokens", start=True, parameters={"max_new_tokens": 3})
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        client.logits(next(names), [1])


def test_sequence_that_starts_again_forgets_what_was_before(client, alone):
    name = next(names)
    client.logits(name, [9, 8, 7], start=True)
    got = client.logits(name, [1, 2], start=True, end=True)
    np.testing.assert_allclose(got, alone([[1, 2]])[0], atol=ROUNDING, rtol=0)


def test_silent_sequences_make_room_for_others(server, alone):
    """Two slots, both taken by clients that are never heard of again; a third waits until they have expired."""
    client = connect(server, "grpc", "brief")
    silent, late = [next(names), next(names)], next(names)
    for name in silent:
        client.logits(name, [1, 2], start=True)
    began = time.monotonic()
    got = client.logits(late, [3, 4], start=True, end=True, timeout=30)
    assert BRIEF_SECONDS / 2 < time.monotonic() - began < 15
    np.testing.assert_allclose(got, alone([[3, 4]])[0], atol=1e-3, rtol=0)  # definitions beside kernels
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        client.logits(silent[0], [3])


def test_client_that_vanishes_takes_its_endless_text_with_it(server):
    """Two slots, both at work for clients that go away: others get them long before the texts would be complete."""
    client = connect(server, "grpc", "brief")
    time.sleep(BRIEF_SECONDS * 2)  # what another test left is gone
    calls = []
    for _ in range(2):
        given = client.inputs({"text": "In the beginning "})
        sequence = {"sequence_id": next(names), "sequence_start": True}
        endless = {"max_new_tokens": 10**9, "ignore_eos": True}
        more = {"callback": lambda result, error: None, "parameters": endless}
        calls.append(client._client.async_infer("brief", given, **sequence, **more))
    time.sleep(0.5)
    for call in calls:
        call.cancel()
    for _ in range(3):
        client.logits(next(names), [1, 2], start=True, end=True, timeout=30)


def test_killed_server_loses_no_sequence_that_was_saved(triton, python, repository, tmp_path, alone):
    name = next(names)
    parts = [[1, 2, 3], [4], [5, 6]]
    with serve(triton, python, repository.command, tmp_path / "log") as running:
        saved = connect(running).ask(name, "logits", "state", tokens=parts[0], start=True)
        running.kill()
    with serve(triton, python, repository.command, tmp_path / "log") as running:
        client = connect(running)
        with pytest.raises(InferenceServerException, match="must specify the START flag"):
            client.logits(name, parts[1])
        got = [client.logits(name, parts[1], start=True, restore=saved["state"])]
        # The process of the model dies beneath a server that stays.
        (stub,) = stubs_of(running.process.pid, "kjv")
        os.kill(stub.pid, signal.SIGKILL)
        after = eventually(lambda: client.logits(name, parts[2], start=True, restore=saved["state"]))
        np.testing.assert_allclose([saved["logits"], *got], alone(parts)[:2], atol=ROUNDING, rtol=0)
        np.testing.assert_allclose(after, alone([parts[0], parts[2]])[1], atol=ROUNDING, rtol=0)


def stubs_of(server: int, model: str) -> list[psutil.Process]:
    """The processes that run a model."""
    return [p for p in psutil.Process(server).children(recursive=True) if f"{model}_0_0" in p.cmdline()]


def eventually(attempt: Callable[[], np.ndarray]) -> np.ndarray:
    """What `attempt` gives as soon as it does not fail, within a minute."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return attempt()
        except InferenceServerException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def test_numpy_that_the_server_was_not_built_for_is_refused(triton, repository, tmp_path):
    """It would hand every array over with the same number in all places."""
    if int(np.__version__.split(".")[0]) < 2:
        pytest.skip("NumPy 1 is here")
    python = triton.make_python(tmp_path / "environment", numpy_1=False)
    with pytest.raises(AssertionError, match="(?s)does not understand NumPy 2.*Install 'numpy<2'"):
        with serve(triton, python, repository.command, tmp_path / "log"):
            pass
