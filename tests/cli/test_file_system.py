"""Every command on a file system that will not have it: one message, exit code 2, and nothing half written."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from support.paths import DEMO

from xlstm_export.cache import cache_folder

needs_rtx = pytest.mark.skipif(
    "not __import__('importlib.util').util.find_spec('tensorrt_rtx')", reason="no TensorRT-RTX"
)

WRITERS = {
    "onnx": lambda bundle, out: ("onnx", DEMO, "-o", out / "bundle"),
    "validate": lambda bundle, out: (
        "validate",
        bundle,
        "--checkpoint",
        DEMO,
        "--steps",
        "8",
        "--report",
        out / "report",
    ),
    "build": lambda bundle, out: ("build", bundle, "--runtime", "tensorrt-rtx", "--target", "sm89"),
    "plugins build": lambda bundle, out: ("plugins", "build", "--no-cuda", "-o", out / "lib"),
}
READERS = {
    "generate": lambda bundle: ("generate", bundle, "-n", "20"),
    "bench": lambda bundle: ("bench", bundle, "--steps", "3", "--prompt", "0", "--json"),
    "inspect": lambda bundle: ("inspect", bundle),
    "inspect checkpoint": lambda bundle: ("inspect", DEMO),
    "doctor": lambda bundle: ("doctor",),
}


def run(arguments, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "xlstm_export.cli", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(command, text=True, timeout=600, **options)


def run_on_full_disk(arguments, limit: int) -> subprocess.CompletedProcess[str]:
    """Files end at `limit` bytes, with an error on the next: what a full disk does, for this process alone.

    Python would cut the modules that it compiles there too, without a word, and whoever imports them next would fail.
    """

    def end_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return run(arguments, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}, preexec_fn=end_files)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def one_message(done) -> str:
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr, done.stderr
    return " ".join(done.stderr.split())


def test_bundle_that_does_not_fit_on_the_disk_is_one_message_and_leaves_nothing(tmp_path):
    done = run_on_full_disk(("onnx", DEMO, "-o", tmp_path / "bundle"), 100_000)
    assert f"{tmp_path / 'bundle'} cannot be written: File too large" in one_message(done)
    assert files_below(tmp_path) == []


def test_report_that_does_not_fit_on_the_disk_comes_after_the_verdict(demo_bundle, tmp_path):
    done = run_on_full_disk(WRITERS["validate"](demo_bundle, tmp_path), 2_000)
    assert "report.json cannot be written: File too large" in one_message(done)
    assert "the bundle computes what" in done.stdout
    assert files_below(tmp_path) == []


@needs_rtx
def test_engine_that_does_not_fit_on_the_disk_is_one_message_and_leaves_nothing(demo_bundle, tmp_path):
    before = files_below(demo_bundle)
    done = run_on_full_disk(WRITERS["build"](demo_bundle, tmp_path), 100_000)
    assert "cannot be written: File too large" in one_message(done)
    assert files_below(demo_bundle) == before


@pytest.mark.parametrize("command", ["onnx", "validate", "plugins build"])
def test_folder_that_takes_no_files_is_named(command, demo_bundle, tmp_path):
    """/proc takes none, from root either."""
    if command == "plugins build":
        environment = os.environ | {"XDG_CACHE_HOME": "/proc/cache"}
        message = one_message(run(WRITERS[command](demo_bundle, tmp_path), env=environment))
        assert "/proc/cache" in message
        return
    message = one_message(run(WRITERS[command](demo_bundle, Path("/proc"))))
    assert "/proc/" in message and "cannot be written: No such file or directory" in message


@pytest.mark.parametrize("command", READERS)
def test_output_that_takes_nothing_is_one_message(command, demo_bundle):
    with open("/dev/full", "w") as full:
        message = one_message(run(READERS[command](demo_bundle), stdout=full))
    assert "What was printed cannot be read or written: No space left on device" in message


@pytest.mark.parametrize("command", READERS)
def test_program_without_an_output_does_its_work(command, demo_bundle):
    done = run(READERS[command](demo_bundle), preexec_fn=lambda: os.close(1))
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("command", ["generate", "inspect", "doctor"])
def test_reader_that_goes_away_is_no_error(command, demo_bundle):
    read, write = os.pipe()
    os.close(read)
    done = run(READERS[command](demo_bundle), stdout=write)
    os.close(write)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "error" not in done.stderr.lower(), done.stderr


@pytest.mark.parametrize("command", ["generate", "doctor"])
def test_environment_without_a_home_will_do(command, demo_bundle):
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    done = run(READERS[command](demo_bundle), env=environment)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


def test_user_without_a_home_has_a_cache_all_the_same(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder() == Path(tempfile.gettempdir()) / f"xlstm-export-{os.getuid()}"


def start(*arguments) -> subprocess.Popen[str]:
    """A process that can be interrupted, also where the tests themselves run in the background."""
    command = [sys.executable, "-m", "xlstm_export.cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **pipes)


def test_interrupt_ends_with_its_own_code_and_leaves_nothing(demo_bundle, tmp_path):
    process = start("generate", demo_bundle, "-n", 1_000_000)
    assert process.stdout.read(40)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors

    process = start("onnx", DEMO, "-o", tmp_path / "bundle")
    while process.poll() is None and not list(tmp_path.iterdir()):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert list(tmp_path.iterdir()) == []
