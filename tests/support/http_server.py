"""A model's paths on 127.0.0.1, in a thread of this process, without Ray."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from xlstm_export.server.http import Paths


class Client:
    """Requests to one port, each on a connection of its own."""

    def __init__(self, port: int, path: str = "/v1/completions"):
        self.port, self.path = port, path

    def connect(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> HTTPConnection:
        """A connection on which a request was sent."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, headers or {})
        return connection

    def request(self, *request: Any) -> HTTPResponse:
        """The answer to what `connect` sends."""
        return self.connect(*request).getresponse()

    def ask(self, status: int = 200, **fields: Any) -> dict[str, Any]:
        """A POST that must be answered with this status; what it is answered."""
        response = self.request("POST", self.path, fields)
        answer = json.loads(response.read())
        assert response.status == status, answer
        return answer

    def stream(self, headers: dict[str, str] | None = None, **fields: Any) -> Iterator[dict[str, Any]]:
        """The events of a stream, which must end as one does."""
        response = self.request("POST", self.path, fields | {"stream": True}, headers)
        assert response.status == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        last = None
        with response:
            for line in response:
                if line.startswith(b"data: "):
                    last = line.removeprefix(b"data: ").strip()
                    if last != b"[DONE]":
                        yield json.loads(last)
        assert last == b"[DONE]"


@contextmanager
def serving(model: Any, path: str = "/v1/completions") -> Iterator[Client]:
    """Serve a model until the block ends."""
    paths = Paths(model)

    async def endpoint(request):
        return await paths(request)

    route = Route("/{rest:path}", endpoint, methods=["GET", "POST", "PUT"])
    config = uvicorn.Config(Starlette(routes=[route]), log_level="error", lifespan="off", timeout_graceful_shutdown=5)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.05)
        yield Client(listening.getsockname()[1], path)
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        model.close()


def wait_until(is_so, seconds: float = 30) -> None:
    """Wait for something that must come true."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)
