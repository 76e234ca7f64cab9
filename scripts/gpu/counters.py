"""Nsight Compute's counters of four kernels, run by tests/gpu's cell_runner_gpu at the shapes of models."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import tempfile
from pathlib import Path

COUNTERS = {
    "dram": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "warps": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "registers": "launch__registers_per_thread",
    "conflicts": "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum",
}
CASES = {
    "mLSTM step": {"cell": "mlstm", "heads": 8, "dim_qk": 256, "dim_v": 512},
    "mLSTM prefill": {"cell": "mlstm", "heads": 8, "dim_qk": 256, "dim_v": 512, "sequence": 512},
    "sLSTM step": {"cell": "slstm", "heads": 4, "dim": 512, "batch": 32},
    "sLSTM prefill": {"cell": "slstm", "heads": 4, "dim": 512, "sequence": 64},
}
"""Arguments of `support.cases`, but for the cell."""


def find_ncu() -> str | None:
    return shutil.which("ncu") or shutil.which("ncu", path="/usr/local/cuda/bin")


def case_bytes(name: str) -> bytes:
    """What cell_runner_gpu reads on standard input."""
    from support import cases

    options = dict(CASES[name])
    if options.pop("cell") == "mlstm":
        return cases.mlstm_case(**options, dtype="bfloat16", cap=15.0).encode()
    return cases.slstm_case(**options, dtype="bfloat16", recurrent="bfloat16").encode()


def measure(folder: Path, name: str, seconds: float) -> dict[str, dict[str, str]]:
    """Of each kernel that was launched, by its name, the counters as text; or {name: {"failure": what happened}}."""
    ncu = find_ncu()
    if ncu is None:
        return {name: {"failure": "ncu is not on this machine"}}
    command = [ncu, "--csv", "--page", "raw", "--print-units", "base", "--metrics", ",".join(COUNTERS.values())]
    with tempfile.NamedTemporaryFile("r", errors="replace") as log:
        command += ["--log-file", log.name, "--force-overwrite", str(folder / "bin" / "cell_runner_gpu")]
        try:
            subprocess.run(command, input=case_bytes(name), stdout=subprocess.DEVNULL, timeout=seconds)
        except subprocess.TimeoutExpired:
            return {name: {"failure": f"stopped after {seconds:.0f} s"}}
        said = log.read()
    return parse(said) or {name: {"failure": _reason(said)}}


def parse(output: str) -> dict[str, dict[str, str]]:
    """The table in ncu's output: below its head a line of units, then a line for each launch; the first counts."""
    lines = output.splitlines()
    start = next((index for index, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return {}
    rows = csv.DictReader(io.StringIO("\n".join([lines[start], *lines[start + 2 :]])))
    kernels: dict[str, dict[str, str]] = {}
    for row in rows:
        if row.get("Kernel Name"):
            counters = {name: row.get(counter) or "" for name, counter in COUNTERS.items()}
            kernels.setdefault(row["Kernel Name"].split("(")[0], counters)
    return kernels


def _reason(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "ERROR" in line), lines[-1] if lines else "ncu said nothing")[:200]
