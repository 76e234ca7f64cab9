"""A Triton server for tests: started on a model repository of ours, on ports of 127.0.0.1, and stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.paths import ROOT

START_SECONDS = 120


@dataclass(frozen=True)
class Installed:
    """Where the server's files lie."""

    folder: Path
    python_library: Path
    """The folder of libpython."""

    def environment(self, python: Path) -> dict[str, str]:
        """For a server that runs models with the packages of the virtual environment `python`."""
        return os.environ | {
            "LD_LIBRARY_PATH": f"{self.folder / 'nvidia_pytriton.libs'}:{self.python_library}",
            "PATH": f"{python / 'bin'}:{self.folder / 'pytriton/tritonserver/bin'}:{os.environ['PATH']}",
        }

    def make_python(self, folder: Path, numpy_1: bool = True) -> Path:
        """A virtual environment with this package and all that the tests have, but NumPy 1 in the place of theirs.

        The server's interpreter heeds no PYTHONPATH; it is the one of the `python3` that it finds.
        """
        venv.create(folder, symlinks=True)
        (packages,) = folder.glob("lib/python*/site-packages")
        if numpy_1:
            for part in (self.folder / "numpy").iterdir():
                (packages / part.name).symlink_to(part)
        (packages / "ours.pth").write_text(
            f"{ROOT}\n{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n"
        )
        return folder


@dataclass
class Running:
    """A server that is up."""

    process: subprocess.Popen[bytes]
    http: str
    grpc: str
    log: Path

    def kill(self) -> None:
        """As a machine's end would."""
        self.process.kill()
        self.process.wait(60)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def serve(installed: Installed, python: Path, command: str, log: Path) -> Iterator[Running]:
    """Run the command that `xlstm-export triton` prints until the server is ready; stop it in the end.

    Args:
        python: the environment of its models, of `make_python`.
    """
    http, grpc = free_ports(2)
    backends = installed.folder / "pytriton" / "tritonserver" / "backends"
    options = f"--backend-directory={backends} --http-address=127.0.0.1 --grpc-address=127.0.0.1 --allow-metrics=false"
    options += f" --http-port={http} --grpc-port={grpc} --exit-timeout-secs=5"
    with log.open("ab") as file:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {command} {options}"],
            env=installed.environment(python),
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            start_new_session=True,
        )
        try:
            _await_ready(process, http, log)
            yield Running(process, f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", log)
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with contextlib.suppress(ProcessLookupError):  # the models' processes outlive a server that was killed
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def _await_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).read()
            return
        assert process.poll() is None and time.monotonic() < deadline, log.read_text("utf-8", "replace")[-20000:]
        time.sleep(0.1)
