"""A child process that measures. Kernels, compilers and packages of others may abort it, hang it, or leave its device
unusable: it takes one measurement with it, and the next one begins with a new child."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

from xlstm_export import own_process

LONGEST_REASON = 300  # characters


class Worker:
    """Calls functions in the child. Use as a context manager.

    Args:
        common: arguments that every function is given.
    """

    def __init__(self, **common: Any):
        self._common = common
        self._child: subprocess.Popen | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def call(self, function: str, arguments: dict[str, Any], seconds: float) -> dict[str, Any]:
        """What the function returned, or {"failure": what happened instead}.

        Args:
            function: `gpu.step:mlstm`. Its arguments and what it returns are plain data.
            arguments: by name.
            seconds: it may take.
        """
        if self._child is None:
            self._begin()
        child = self._child
        assert child is not None and child.stdin is not None and child.stdout is not None
        request = json.dumps({"function": function, "arguments": self._common | arguments}) + "\n"
        child.stdin.write(request.encode())
        child.stdin.flush()
        if not select.select([child.stdout], [], [], seconds)[0]:
            self.end()
            return {"failure": f"stopped after {seconds:.0f} s"}
        answer = child.stdout.readline()
        if not answer.endswith(b"\n"):
            failure = self._last_words()
            self.end()
            return {"failure": failure}
        result = json.loads(answer)
        if "failure" in result:  # its device may be in any state
            self.end()
        return result

    def _begin(self) -> None:
        self._errors = tempfile.TemporaryFile()
        self._child = subprocess.Popen(
            own_process.command("gpu.worker:main"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # compilers that it started end with it
        )

    def end(self) -> None:
        """End the child, and with it what it holds on the device."""
        if self._child is None:
            return
        try:
            os.killpg(self._child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()
        self._child = None

    def _last_words(self) -> str:
        """How a child ended that did not answer."""
        assert self._child is not None
        code = self._child.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        telling = [line for line in lines if "ssert" in line or "rror" in line] or lines or ["it said nothing"]
        return f"{how}: {telling[-1]}"[:LONGEST_REASON]


def find(function: str) -> Callable[..., dict[str, Any]]:
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)


def main() -> None:
    """The child: calls, one a line on standard input; results, one a line on standard output."""
    out = own_process.take_stdout()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            result = find(request["function"])(**request["arguments"])
        except Exception as problem:
            traceback.print_exc()
            reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
            result = {"failure": reason[:LONGEST_REASON]}
        print(json.dumps(result), file=out, flush=True)
