"""The paths of one replica, as a Starlette request comes in and a response goes out."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from .forecast_model import ForecastModel
from .language_model import LanguageModel
from .openai import RequestError, parse_completion

MOST_BYTES = 16 << 20
"""Of a request's body."""
RETRY_AFTER = "1"
"""Seconds after which a client that was refused may try again."""

_Handler = Callable[[Request], Awaitable[Response]]


@dataclass
class Paths:
    """Answers requests to a model. Whatever is wrong with one is answered with OpenAI's error object."""

    model: LanguageModel | ForecastModel
    created: int = field(default_factory=lambda: int(time.time()))

    async def __call__(self, request: Request) -> Response:
        """The response; a stream begins when its first event is known to come."""
        try:
            return await self._handler(request)(request)
        except RequestError as error:
            headers = {"Retry-After": RETRY_AFTER} if error.status in (429, 503) else None
            return JSONResponse(error.body(), error.status, headers)

    def _handler(self, request: Request) -> _Handler:
        handlers: dict[tuple[str, str], _Handler] = {
            ("GET", "/v1/models"): self._models,
            ("GET", f"/v1/models/{self.model.name}"): self._one_model,
        }
        if isinstance(self.model, LanguageModel):
            handlers["POST", "/v1/completions"] = self._completions
        else:
            handlers["POST", "/v1/forecasts"] = self._forecasts
        method, path = request.method, request.url.path
        if handler := handlers.get((method, path)):
            return handler
        if allowed := [known for known, where in handlers if where == path]:
            raise RequestError(405, f"{path} takes {' and '.join(allowed)}, not {method}.")
        known = ", ".join(f"{known} {where}" for known, where in handlers)
        raise RequestError(404, f"There is no {method} {path} here. There are {known}.")

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._description]})

    async def _one_model(self, _: Request) -> Response:
        return JSONResponse(self._description)

    @property
    def _description(self) -> dict[str, object]:
        return {"id": self.model.name, "object": "model", "created": self.created, "owned_by": "xlstm-export"}

    async def _completions(self, request: Request) -> Response:
        assert isinstance(self.model, LanguageModel)
        asked = parse_completion(await _body(request))
        if asked.stream:
            return StreamingResponse(await self.model.stream(asked), media_type="text/event-stream")
        return JSONResponse(await self.model.complete(asked))

    async def _forecasts(self, request: Request) -> Response:
        assert isinstance(self.model, ForecastModel)
        return JSONResponse(await self.model.forecast(await _body(request)))


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise RequestError(413, f"The body is larger than {MOST_BYTES >> 20} MiB.")
    return bytes(body)
