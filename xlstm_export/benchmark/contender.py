"""The processes that are timed, seen from outside: each is asked for a turn, and waits for the next."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from typing import Any

from .. import own_process
from ..errors import ErrorKind, UserError
from .job import Job

_LAST_CHARACTERS = 2000


class Contender:
    """A process that has loaded its model. A context manager; a peer's failure is a `UserError` like any other.

    Args:
        name: for people.
        job: what it runs.
        threads: of its arithmetic; None: as many as it takes by itself.
    """

    def __init__(self, name: str, job: Job, threads: int | None = None):
        self.name, self.job = name, job
        self._noise = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        environment = dict(os.environ) if threads is None else os.environ | {"OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            own_process.command("xlstm_export.benchmark.worker:main", job.to_json()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, what: str, **arguments: object) -> Any:
        """What the process answers to a request.

        Raises:
            UserError: it failed, or ended.
        """
        assert self._process.stdin is not None  # a pipe
        try:
            self._process.stdin.write(json.dumps({"do": what} | arguments) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said before it ended tells
        return self._answer()["value"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # a pipe
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else self._death()
        if "message" in answer:
            raise UserError(ErrorKind[answer["kind"]], f"{self.name}: {answer['message']}")
        return answer

    def _death(self) -> dict[str, Any]:
        code = self._process.wait()
        self._noise.seek(0)
        hint = " The machine ran out of memory, most likely." if code == -9 else ""
        printed = self._noise.read()[-_LAST_CHARACTERS:].rstrip()
        tail = f" It printed last:\n{printed}" if printed else ""
        return {"kind": ErrorKind.runtime.name, "message": f"the process ended with code {code}.{hint}{tail}"}

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._noise.close()

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
