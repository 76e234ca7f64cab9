"""A process that is timed: it loads one model, is asked for turns, and says how much memory it took.

Requests and answers are JSON objects, one a line, on standard input and output; whatever the libraries print goes to
standard error. The times are taken here, so that the pipe costs nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from ..errors import ErrorKind, UserError
from ..own_process import take_stdout
from .job import Job

_WARM_UP_STEPS, _WARM_UP_SECONDS = 10, 5.0


def main() -> None:
    """The entry of the process; its argument is a `Job`."""
    out = take_stdout()

    def answer(**values: object) -> None:
        out.write(json.dumps(values) + "\n")

    try:
        job = Job.parse(sys.argv[1])
        requests = _load(job)
        answer(ready=True)
        for line in sys.stdin:
            request = json.loads(line)
            answer(value=requests[request.pop("do")](**request))
    except UserError as error:
        answer(kind=error.kind.name, message=str(error))
    except MemoryError:
        answer(kind=ErrorKind.runtime.name, message="there is not enough memory.")
    except Exception as error:  # of a peer's code, or of a runtime's
        answer(kind=ErrorKind.runtime.name, message=f"{type(error).__name__}: {error}")


def _load(job: Job) -> dict[str, Callable[..., Any]]:
    """What the process answers, by the name of the request."""
    from . import runners

    base = peak_memory()
    subject = runners.make(job)
    requests: dict[str, Callable[..., Any]] = {"memory": lambda: (peak_memory(), base)}
    if isinstance(subject, runners.Stepper):
        _turn(subject.step, _WARM_UP_STEPS, _WARM_UP_SECONDS)
        requests["turn"] = lambda steps, seconds: _turn(subject.step, steps, seconds)
    for name in ("prompt", "forecasts", "stream", "kind", "nodes"):
        if hasattr(subject, name):
            requests[name] = getattr(subject, name)
    return requests


def _turn(step: Callable[[], object], steps: int, seconds: float) -> list[float]:
    """Seconds of each of so many steps, or of those that the time allows, after one to fill the caches."""
    step()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < steps and (not times or time.perf_counter() - began < seconds):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times


def peak_memory() -> int:
    """The most bytes of this process that were in memory so far.

    `ru_maxrss` would be no less than the parent's: the kernel hands it on to what a process starts.
    """
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10
