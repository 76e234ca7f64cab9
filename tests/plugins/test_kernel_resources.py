"""What the compiled CUDA kernels take of a GPU, against docs/kernel-resources.md: a new spill fails here."""

from __future__ import annotations

import sys

import pytest
from support.native import attempt, build_with_cuda, run
from support.paths import ROOT

SCRIPT = ROOT / "scripts" / "kernel_resources.py"


@pytest.fixture(scope="module")
def libraries():
    folder = build_with_cuda("xlstm_tensorrt", "xlstm_runtime") / "lib"
    return folder / "libxlstm_tensorrt.so", folder / "libxlstm_runtime.so"


def test_kernels_take_no_more_than_the_table_says(libraries):
    assert "kernels are within" in run(sys.executable, SCRIPT, "--check", *libraries)


def test_kernel_that_spills_or_needs_more_registers_is_named(libraries, tmp_path):
    """Held against a table with fewer registers for one kernel, and without another."""
    page = (ROOT / "docs" / "kernel-resources.md").read_text().splitlines()
    rows = [number for number, line in enumerate(page) if line.startswith("| `")]
    name = page[rows[0]].split("`")[1]
    page[rows[0]] = "|".join([f"| `{name}` ", " 0 ", *[" 8, 64 "] * (page[rows[0]].count("|") - 3), ""])
    missing = page.pop(rows[1]).split("`")[1]
    table = tmp_path / "table.md"
    table.write_text("\n".join(page))
    done = attempt(sys.executable, SCRIPT, "--table", table, "--check", *libraries)
    assert done.returncode == 1
    assert f"{name}: " in done.stderr and f"{missing} for sm_90 is not in table.md" in done.stderr
