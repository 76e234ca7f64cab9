"""Run the application on this machine, until it is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from ..errors import ErrorKind, UserError
from ..extras import extras_required
from .settings import Settings

_ATTEMPTS = 3
_OBJECTS = 128 << 20
"""Bytes of Ray's object store, which nothing here uses."""


def run(settings: Settings, host: str, port: int, metrics_port: int, ready: Callable[[], object]) -> None:
    """Start Ray and the replicas, and return when the process is told to end (SIGINT, SIGTERM).

    Args:
        settings: what to serve.
        host, port: where requests are taken.
        metrics_port: where Prometheus' metrics are, at `/metrics`.
        ready: called when requests are answered.

    Raises:
        UserError: Ray is not installed, a port is taken, or the replicas do not start.
    """
    for number in (port, metrics_port):
        _check_free(host, number)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers that it is used
    with extras_required():
        import ray
        from ray import serve

        from .replica import application
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    cpus = max(os.cpu_count() or 1, int(settings.cpus * settings.replicas))
    try:
        try:
            _start_ray(num_cpus=cpus, _metrics_export_port=metrics_port)
            serve.start(http_options={"host": host, "port": port}, logging_config={"log_level": "WARNING"})
            serve.run(application(vars(settings)), name="xlstm", route_prefix="/")
        except UserError:
            raise
        except Exception as error:  # what Ray raises has no base but this
            raise UserError(ErrorKind.runtime, f"Ray Serve does not start: {error} It logs to /tmp/ray.") from None
        stop = threading.Event()
        for name in (signal.SIGINT, signal.SIGTERM):  # after Ray has set its own
            signal.signal(name, lambda *_: stop.set())
        ready()
        stop.wait()
        serve.delete("xlstm")  # lets what runs come to its end
    finally:
        ray.shutdown()


def _start_ray(**options: Any) -> None:
    """Start Ray. It gives its own processes 15 seconds, which a busy machine may not have: it is tried again."""
    import ray

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            ray.init(
                "local",
                object_store_memory=_OBJECTS,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **options,
            )
        except Exception:  # what Ray raises has no base but this
            ray.shutdown()
            if attempt == _ATTEMPTS:
                raise
        else:
            return


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                ErrorKind.unavailable, f"{host}:{port} cannot be served on: {error.strerror}. Choose another --port."
            ) from None
