#!/usr/bin/env python3
"""Time and test the CUDA code on this machine's GPU, and make docs/gpu-results.md.

    scripts/gpu_check.py carry FOLDER [--target sm90]
                                                     where there is a network: what the other machine may lack, and
                                                     with a target the programs, which take minutes to compile
    scripts/gpu_check.py timings [--carried FOLDER]  nine minutes at most
    scripts/gpu_check.py checks [--carried FOLDER]   nine minutes at most: tests, compute-sanitizer, counters
    scripts/gpu_check.py page                        the page again, from the records

Needs a GPU, nvcc, CMake, PyTorch with CUDA, hypothesis, pytest and pytest-xdist. Every result is printed and written to
docs/gpu-results.jsonl the moment it exists; `timings` once more begins with what is not there yet. What is measured,
and what of others it is set against, runs in a child process: one that aborts or hangs becomes a row that says so, and
the rest goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[1]
sys.path[1:1] = [str(ROOT), str(ROOT / "tests")]  # the package and the tests' cases, from the clone

from gpu import carry, checks, counters, page, plan, records  # noqa: E402
from gpu.worker import Worker  # noqa: E402

from xlstm_export.errors import UserError  # noqa: E402
from xlstm_export.native import gpu_programs  # noqa: E402

T = TypeVar("T")
GRACE = 20  # seconds past the end for what has begun


class Run:
    """What a command measures with: programs, a child process, the facts of this machine, the time that is left."""

    def __init__(self, options: argparse.Namespace):
        self._end = time.monotonic() + 60 * options.minutes
        self._results: Path = options.results
        if options.carried:
            carry.use(options.carried)
        if reason := gpu_programs.why_none_can_run():
            sys.exit(f"error: {reason}")
        self.folder = gpu_programs.gpu_programs()
        print(f"programs after {60 * options.minutes - self.left:.0f} s: {self.folder}", flush=True)
        self.worker = Worker(folder=str(self.folder))
        facts = self.worker.call("gpu.device:facts", {}, 120)
        if "failure" in facts:
            sys.exit(f"error: {facts['failure']}")
        self._on = records.here(facts)
        self._measured = {record.key for record in records.read(self._results) if record.on == self._on}

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def while_there_is_time(self, items: Iterable[T]) -> Iterator[T]:
        items = list(items)
        for begun, item in enumerate(items):
            if self.left <= 0:
                print(f"the time is used up: not begun are the last {len(items) - begun} of {len(items)}", flush=True)
                return
            yield item

    def add(self, what: str, of: dict, result: dict) -> None:
        records.append(self._results, records.Record(what, of, result, self._on))

    def has(self, what: str, of: dict) -> bool:
        """Whether an earlier command measured it, with the same machine and code."""
        return records.Record(what, of, {}, self._on).key in self._measured


def timings(options: argparse.Namespace) -> None:
    run, items = Run(options), plan.timings(options.quick, options.tiles)
    with run.worker as worker:
        # A second command goes on where the first was cut off.
        for item in run.while_there_is_time(sorted(items, key=lambda item: run.has(item.what, item.of))):
            if item.alone:
                worker.end()
            run.add(item.what, item.of, worker.call(item.function, item.of, min(item.seconds, run.left + GRACE)))
            if item.alone:
                worker.end()
    write_page(options)


def check(options: argparse.Namespace) -> None:
    run, passed = Run(options), 0
    run.worker.end()  # the tests have processes of their own
    for part in run.while_there_is_time(checks.PARTS):
        result = checks.run(part, run.left + GRACE)
        passed += result.get("failed", 1) == 0
        run.add("tests", {"part": part}, result)
    for name in run.while_there_is_time(counters.CASES):
        for kernel, result in counters.measure(run.folder, name, min(60, run.left + GRACE)).items():
            run.add("counters", {"case": name, "kernel": kernel}, result)
    write_page(options)
    sys.exit(passed < len(checks.PARTS))


def write_page(options: argparse.Namespace) -> None:
    path = options.results.with_suffix(".md")
    path.write_text(page.render(records.read(options.results)))
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    carrying = commands.add_parser("carry")
    carrying.add_argument("folder", type=Path)
    carrying.add_argument("--python", default="3.12", help="version of the interpreter on the machine with the GPU")
    carrying.add_argument("--target", help="architecture of its GPU, such as sm90; needs nvcc")
    carrying.set_defaults(call=lambda options: carry.carry(options.folder, options.python, options.target))
    for name, call in (("timings", timings), ("checks", check), ("page", write_page)):
        command = commands.add_parser(name)
        command.set_defaults(call=call)
        default = ROOT / "docs" / "gpu-results.jsonl"
        command.add_argument("--results", type=Path, default=default, help="records; the page is written beside them")
        if name == "page":
            continue
        command.add_argument("--minutes", type=float, default=9, help="nothing begins after them; builds included")
        command.add_argument("--carried", type=Path, metavar="FOLDER", help="what `carry` filled")
        if name == "timings":
            command.add_argument("--quick", action="store_true", help="the shapes of the claims, and little else")
            command.add_argument("--tiles", action="store_true", help="every tile and chunk of the mLSTM kernels too")
    options = parser.parse_args()
    try:
        options.call(options)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
