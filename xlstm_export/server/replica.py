"""The Ray Serve application: replicas that each run the bundle, behind a router that keeps conversations together.

`application` is what a Serve config file names (`import_path: xlstm_export.server.replica:application`), with the
fields of `Settings` as its `args`.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import metrics
from ray.serve.config import RequestRouterConfig
from starlette.requests import Request
from starlette.responses import Response

from ..errors import ErrorKind, UserError
from .http import Paths
from .language_model import LanguageModel
from .models import open_model
from .settings import Settings

_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
_HEALTH_PERIOD = 2.0
"""Seconds between two health checks, which report the metrics too."""
_BEYOND = 64
"""Requests that a replica is handed beyond those it takes: it is the one that refuses them, with a 429."""


class Replica:
    """One process that runs the bundle.

    Args:
        settings: the fields of `Settings`.
    """

    def __init__(self, **settings: Any):
        self._model = open_model(Settings(**settings))
        self._paths = Paths(self._model)
        self._metrics = _Metrics(self._model) if isinstance(self._model, LanguageModel) else None

    async def __call__(self, request: Request) -> Response:
        """Any request."""
        return await self._paths(request)

    async def check_health(self) -> None:
        """Called by Ray, which replaces a replica that raises.

        Raises:
            RuntimeError: it cannot answer any more.
        """
        if self._metrics is not None:
            self._metrics.report()
        if isinstance(self._model, LanguageModel) and not self._model.is_alive:
            raise RuntimeError("the batcher has stopped")

    def __del__(self) -> None:
        if hasattr(self, "_model"):
            self._model.close()


class _Metrics:
    """What Ray exports in Prometheus' form, labelled by replica, beside its own numbers of requests and latencies."""

    def __init__(self, model: LanguageModel):
        self._model = model
        self._sequences = metrics.Gauge("xlstm_sequences", "Sequences with a slot, and waiting.", ("state",))
        self._counters = {
            name: metrics.Counter(f"xlstm_{name}", description)
            for name, description in {
                "prompt_tokens": "Tokens of prompts, of requests that have ended.",
                "new_tokens": "Tokens that were drawn, of requests that have ended.",
                "passes": "Passes over the model.",
                "positions": "Positions that passes computed, padding included.",
                "failed_passes": "Passes that failed.",
            }.items()
        }
        self._reported = dict.fromkeys(self._counters, 0)

    def report(self) -> None:
        batcher = self._model.batcher
        self._sequences.set(batcher.pool.taken, {"state": "running"})
        self._sequences.set(batcher.waiting, {"state": "waiting"})
        now = vars(self._model.counts) | vars(batcher.stats)
        for name, counter in self._counters.items():
            if more := now[name] - self._reported[name]:
                counter.inc(more)
                self._reported[name] = now[name]


def application(args: dict[str, Any]) -> serve.Application:
    """The application with these settings.

    Args:
        args: the fields of `Settings`.

    Raises:
        UserError: one is unknown, or missing.
    """
    try:
        settings = Settings(**args)
    except TypeError as error:
        raise UserError(ErrorKind.argument, f"The application's args are not right: {error}.") from None
    deployment = serve.deployment(
        Replica,
        name="model",
        num_replicas=settings.replicas,
        max_ongoing_requests=settings.slots + settings.queue + _BEYOND,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        request_router_config=RequestRouterConfig(request_router_class=_ROUTER),
        health_check_period_s=_HEALTH_PERIOD,
    )
    return deployment.bind(**vars(settings))
