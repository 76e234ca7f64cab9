"""`xlstm-export serve` as users start it: Ray Serve with two replicas, of which one is killed; on 127.0.0.1 only."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.client import HTTPException

import numpy as np
import psutil
import pytest
from support.http_server import Client, wait_until
from support.paths import ROOT
from xlstm_docs.pages import blocks_of

from xlstm_export.bundle import Bundle
from xlstm_export.runtime import open_session

pytestmark = pytest.mark.slow
CONVERSATIONS = 12
PROMPTS = [f"Chapter {index}. " for index in range(CONVERSATIONS)]
GREEDY = {"model": "bundle", "temperature": 0}
PAGE = blocks_of(ROOT, "docs/how-to/serve.md")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextmanager
def serve(folder, *options):
    """The page's command as a process, in a folder with a bundle, and its client, once it answers."""
    port, metrics = free_port(), free_port()
    (command,) = (c for block in PAGE for c in block.commands if c.startswith("xlstm-export serve"))
    command = [sys.executable, "-m", "xlstm_export.cli", *command.split()[1:], "--port", str(port)]
    command += ["--metrics-port", str(metrics), "--custom-ops", "none", *options]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, cwd=folder)
        try:
            wait_until(lambda: "Serving" in (folder / "log").read_text() or process.poll() is not None, 240)
            assert process.poll() is None, (folder / "log").read_text()
            yield process, Client(port), metrics
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def replicas(process):
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "ServeReplica:xlstm:model" in " ".join(child.cmdline())
    ]


class Conversation(threading.Thread):
    """Two turns; what breaks off in the second is asked again, from the same state."""

    def __init__(self, client, index):
        super().__init__(daemon=True)
        self.client, self.index, self.broken, self.pieces = client, index, 0, 0
        self.headers = {"x-session-id": f"conversation-{index}"}
        first = client.request("POST", client.path, self.fields(PROMPTS[index], 20), self.headers)
        answer = json.loads(first.read())
        self.state, self.first, self.second = answer["state"], answer["choices"][0]["text"], None

    def fields(self, prompt, count, **more):
        return GREEDY | {"prompt": prompt, "max_tokens": count, "keep_state": True} | more

    def run(self):
        deadline = time.monotonic() + 120
        while self.second is None and time.monotonic() < deadline:
            try:
                self.second = self.ask()
            except (AssertionError, HTTPException, OSError):
                self.broken += 1
                time.sleep(0.2)

    def ask(self):
        text, self.pieces = "", 0
        for event in self.client.stream(self.headers, **self.fields(" And ", 300, state=self.state)):
            assert "error" not in event, event
            text += event["choices"][0]["text"]
            self.pieces += 1
        return text


def alone(session, conversation):
    """What the model says to the two turns, in one session."""
    session.reset()
    texts = []
    for prompt, count in ((PROMPTS[conversation.index], 20), (" And ", 300)):
        logits, text = session.prefill([np.frombuffer(prompt.encode(), np.uint8).astype(np.int64)])[0, 0], []
        for _ in range(count):
            text.append(int(logits.argmax()))
            logits = session.step(np.array([[text[-1]]]))[0, 0]
        texts.append(bytes(text).decode())
    return texts


def test_killed_replica_loses_no_conversation(demo_bundle, tmp_path):
    shutil.copytree(demo_bundle, tmp_path / "bundle")
    with serve(tmp_path, "--slots", "8") as (process, client, metrics):
        check_the_page(client)
        conversations = [Conversation(client, index) for index in range(CONVERSATIONS)]
        for conversation in conversations:
            conversation.start()
        wait_until(lambda: all(c.pieces > 3 or c.second is not None for c in conversations), 60)
        victim, other = replicas(process)
        victim.kill()
        for conversation in conversations:
            conversation.join(150)
        broken = [conversation.broken > 0 for conversation in conversations]
        assert any(broken) and not all(broken), broken  # some were with the one, some with the other
        with open_session(Bundle.open(demo_bundle)) as session:
            for conversation in conversations:
                assert [conversation.first, conversation.second] == alone(session, conversation)
        assert other.is_running()
        wait_until(lambda: len(replicas(process)) == 2, 60)

        gone = client.connect("POST", client.path, GREEDY | {"prompt": "x", "max_tokens": 10**6})
        told = lambda: urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics").read().decode()  # noqa: E731
        wait_until(lambda: running(told()) == 1, 60)
        gone.close()  # nobody waits for the answer any more
        wait_until(lambda: running(told()) == 0, 60)
        assert "ray_xlstm_new_tokens" in told()
    assert process.returncode == 0


def check_the_page(client):
    """What the page tells a user to type is answered, and as it says."""
    asked = [block for block in PAGE if block.language == "bash" and "/v1/completions" in block.text]
    assert len(asked) == 2
    for block in asked:
        script = "set -x\n" + block.text.replace(":8000", f":{client.port}")
        done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "text_completion" in done.stdout and '"error"' not in done.stdout, done.stdout
    assert '"state":"state-' in done.stdout


def running(metrics):
    """Sequences with a slot, over all replicas."""
    lines = (
        line for line in metrics.splitlines() if line.startswith("ray_xlstm_sequences") and 'state="running"' in line
    )
    return sum(float(line.split()[-1]) for line in lines)
