"""OpenAI's `/v1/completions` as JSON: what a request says, and what is answered; nothing of HTTP."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..errors import ErrorKind, UserError
from ..runtime.sampling import Sampling

DEFAULT_MAX_TOKENS = 16
_MOST_STOPS = 4
_INERT: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (),
    "suffix": ("",),
}
"""Fields that ask for what is not done here, and the values (beside null) that ask for nothing."""


class RequestError(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        message: for people.
        param: the field that is wrong.
        code: for programs.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kinds = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
        kind = kinds.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class CompletionRequest:
    """A request to continue one text."""

    model: str
    prompt: str | list[int]
    """A text, or tokens."""
    max_tokens: int
    sampling: Sampling
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    """Whether a stream ends with the numbers of tokens."""
    echo: bool
    """Whether the prompt is part of the answer."""
    state: str | None
    """The state to go on from; None: the prompt is the beginning."""
    keep_state: bool
    """Whether the state afterwards is kept, and named in the answer."""


def parse_json(body: bytes) -> dict[str, Any]:
    """The object that a request's body is.

    Raises:
        RequestError: it is none.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"The body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RequestError(400, "The body is not a JSON object.")
    return fields


def parse_completion(body: bytes) -> CompletionRequest:
    """What a request to `/v1/completions` says.

    Raises:
        RequestError: a field is missing, wrong, unknown, or asks for what is not done here.
    """
    take = Take(parse_json(body))
    for name, values in _INERT.items():
        if (given := take(name, None, lambda _: True, "")) is not None and given not in values:
            _refuse(name, f"{name} is not supported here. Leave it out.")
    options = take("stream_options", {}, lambda v: isinstance(v, dict), "an object")
    request = CompletionRequest(
        model=take("model", ..., lambda v: isinstance(v, str), "the name of a model"),
        prompt=_prompt(take("prompt", ..., lambda v: isinstance(v, str | list), "a text, or tokens")),
        max_tokens=take("max_tokens", DEFAULT_MAX_TOKENS, lambda v: is_int(v) and v >= 1, "a number from 1"),
        sampling=_sampling(take),
        stops=_stops(take("stop", [], lambda v: isinstance(v, str | list), "a text, or up to 4 texts")),
        stream=take("stream", False, is_bool, "true or false"),
        include_usage=Take(options, "stream_options.")("include_usage", False, is_bool, "true or false"),
        echo=take("echo", False, is_bool, "true or false"),
        state=take("state", None, lambda v: isinstance(v, str), "the name of a state"),
        keep_state=take("keep_state", False, is_bool, "true or false"),
    )
    take("user", None, lambda v: isinstance(v, str), "a text")
    take.nothing_more()
    if request.echo and not isinstance(request.prompt, str):
        _refuse("echo", "echo needs a prompt that is a text.")
    return request


class Take:
    """Takes fields out of a JSON object, each with a check. `null` counts as not given."""

    def __init__(self, fields: dict[str, Any], prefix: str = ""):
        self._left, self._prefix = dict(fields), prefix

    def __call__(self, name: str, default: Any, is_good: Callable[[Any], bool], expected: str) -> Any:
        """The value of a field, or the default; `...`: it has to be there.

        Raises:
            RequestError: it is missing, or not what is expected.
        """
        value, where = self._left.pop(name, None), self._prefix + name
        if value is None:
            if default is ...:
                _refuse(where, f"{where} is missing: give {expected}.")
            return default
        if not is_good(value):
            _refuse(where, f"{where} is not {expected}.")
        return value

    def nothing_more(self) -> None:
        """
        Raises:
            RequestError: there are fields that nobody took.
        """
        for name in self._left:
            _refuse(name, f"Unrecognized request argument supplied: {self._prefix}{name}")


def is_int(value: object) -> bool:
    """Whether a JSON value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_bool(value: object) -> bool:
    """Whether a JSON value is true or false."""
    return isinstance(value, bool)


def _prompt(value: str | list[Any]) -> str | list[int]:
    if isinstance(value, str) or all(map(is_int, value)):
        return value
    if len(value) == 1 and (isinstance(value[0], str) or (isinstance(value[0], list) and all(map(is_int, value[0])))):
        return value[0]
    _refuse("prompt", "prompt is not one text, or the tokens of one. Send several in requests of their own.")


def _stops(value: str | list[Any]) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if len(stops) > _MOST_STOPS or not all(isinstance(stop, str) for stop in stops):
        _refuse("stop", f"stop is not a text, or up to {_MOST_STOPS} texts.")
    return tuple(stops)


def _sampling(take: Take) -> Sampling:
    temperature = take("temperature", 1.0, lambda v: is_number(v) and 0 <= v <= 2, "a number from 0 to 2")
    top_p = take("top_p", 1.0, lambda v: is_number(v) and 0 < v <= 1, "a number above 0 and up to 1")
    seed = take("seed", None, is_int, "a whole number")
    return Sampling(float(temperature), 0, float(top_p), secrets.randbits(32) if seed is None else seed % 2**32)


def _refuse(param: str, message: str) -> NoReturn:
    raise RequestError(400, message, param)


@dataclass
class Answer:
    """Builds what is answered to one request."""

    model: str
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def body(
        self, text: str, finish: str | None = None, usage: Mapping[str, int] | None = None, state: str | None = None
    ) -> dict[str, Any]:
        """A whole answer, or a part of a stream."""
        choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
        answer = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        answer |= {"choices": [choice]}
        if usage is not None:
            answer["usage"] = dict(usage)
        if state is not None:
            answer["state"] = state
        return answer


def usage(prompt: int, new: int) -> dict[str, int]:
    """The numbers of tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def refusal(error: UserError) -> RequestError:
    """What a `UserError` is answered with."""
    if error.kind in (ErrorKind.argument, ErrorKind.state):
        return RequestError(400, str(error))
    return RequestError(503 if error.kind is ErrorKind.unavailable else 500, str(error))
