"""The CUDA kernels on a real GPU under compute-sanitizer."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from support.cases import CHUNKS, TILES, mlstm_case, slstm_case


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_compute_sanitizer_finds_no_error(gpu_folder, tool, tmp_path):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not on this machine")
    cases = []
    for sequence in (1, 2):
        for in_place in (0, 15):
            for misalign in (False, True):
                common = {"batch": 2, "heads": 2, "sequence": sequence, "misalign": misalign, "lengths": True}
                cases.append(slstm_case(dim=40, dtype="float16", recurrent="float16", in_place=in_place, **common))
                for tile in TILES if not misalign else [(1, 32)]:
                    cases.append(mlstm_case(dim_qk=33, dim_v=132, in_place=in_place & 7, tile=tile, **common))
    for dtype in ("float32", "bfloat16"):
        common = {"batch": 2, "heads": 2, "sequence": 40, "lengths": True, "in_place": 7, "dtype": dtype}
        cases += [mlstm_case(dim_qk=33, dim_v=40, chunk=chunk, **common) for chunk in CHUNKS[dtype]]
    log = tmp_path / "log"
    options = ["--tool", tool, "--error-exitcode", "9", "--log-file", str(log)]
    done = subprocess.run(
        [sanitizer, *options, gpu_folder / "bin" / "cell_runner_gpu"],
        input=b"".join(case.encode() for case in cases),
        capture_output=True,
    )
    text = log.read_text() if log.exists() else ""
    if "Device not supported" in text or "not supported on this" in text:
        pytest.skip(f"compute-sanitizer does not run on this machine: {text[-300:]}")
    assert done.returncode == 0, text[-4000:] + done.stderr.decode(errors="replace")
    assert "ERROR SUMMARY: 0 errors" in text or "RACECHECK SUMMARY: 0 hazards" in text, text[-4000:]
