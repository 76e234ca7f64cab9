"""tests/gpu, run with as many processes as the processor carries: pytest's own output, and what its report counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from .records import ROOT

SANITIZED = ROOT / "tests" / "gpu" / "test_under_compute_sanitizer.py"
PARTS = {
    "tests/gpu": [str(ROOT / "tests" / "gpu"), f"--ignore={SANITIZED}"],
    "compute-sanitizer": [str(SANITIZED)],
}
PROCESSES = max(1, min(12, (os.cpu_count() or 1) - 2))


def run(part: str, seconds: float) -> dict[str, Any]:
    """How many tests passed, failed and were skipped, and why; or {"failure": what happened instead}."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # The longest tests come first to whoever is free.
        options = ["-q", "-n", str(PROCESSES), "--dist", "worksteal", f"--junit-xml={report}"]
        # The package may not be installed: pytest's own processes import it from here.
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *PARTS[part]],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": paths},
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return {"failure": f"stopped after {seconds:.0f} s"}
        if not report.exists():
            return {"failure": f"pytest ended with exit code {code}"}
        return counted(report.read_text())


def counted(report: str) -> dict[str, Any]:
    """Of a report in JUnit's format."""
    why: dict[str, None] = {}
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for case in ElementTree.fromstring(report).iter("testcase"):
        outcome = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        if outcome is None:
            counts["passed"] += 1
            continue
        counts["skipped" if outcome.tag == "skipped" else "failed"] += 1
        name = "" if outcome.tag == "skipped" else f"{case.get('name')}: "
        why[f"{name}{(outcome.get('message') or outcome.tag).splitlines()[0][:200]}"] = None
    if not counts["passed"] + counts["failed"]:
        return {"failure": f"no test ran: {'; '.join(why) or 'there was none'}"}
    return {**counts, "why": list(why)}
