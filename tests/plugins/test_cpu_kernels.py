"""The CPU kernels on each instruction set of this processor, against float64."""

from __future__ import annotations

import dataclasses
import subprocess

import numpy as np
import pytest
from cases import mlstm_case, mlstm_parameters, slstm_case, slstm_parameters
from cell_runner import TYPES, Case
from cpu_harness import STATES, CpuKernels, harness_options
from hypothesis import HealthCheck, given, settings
from native_build import build

SWEEP = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
CASES = {"mlstm": mlstm_case, "slstm": slstm_case}
ALL_IN_PLACE = {"mlstm": 0b111, "slstm": 0b1111}


@pytest.fixture(scope="module")
def kernels() -> CpuKernels:
    return CpuKernels()


def _check(kernels: CpuKernels, case: Case, threads: int = 1) -> None:
    expected = case.expected()
    for name in kernels.instruction_sets():
        outputs = kernels.run(case, name, threads)
        problems = [e.check(actual) for e, actual in zip(expected, outputs, strict=True)]
        assert not any(problems), f"{name}: " + "; ".join(filter(None, problems))


@SWEEP
@given(parameters=mlstm_parameters())
def test_mlstm_kernel_departs_from_float64(kernels, parameters):
    _check(kernels, mlstm_case(**parameters), threads=1 + parameters["seed"] % 3)


@SWEEP
@given(parameters=slstm_parameters())
def test_slstm_kernel_departs_from_float64(kernels, parameters):
    _check(kernels, slstm_case(**parameters), threads=1 + parameters["seed"] % 3)


@pytest.mark.parametrize("in_place", [0, 7])
@pytest.mark.parametrize(
    "sizes",
    [dict(heads=2, dim_qk=256, dim_v=512), dict(heads=4, dim_qk=256, dim_v=384), dict(heads=1, dim_qk=8, dim_v=2064)],
    ids=["7B", "stores past the caches", "wider than a task"],
)
def test_large_mlstm_departs_from_float64(kernels, sizes, in_place):
    _check(kernels, mlstm_case(**sizes, in_place=in_place, cap=15.0), threads=2)


def test_slstm_of_a_batch_larger_than_a_tile_departs_from_float64(kernels):
    _check(kernels, slstm_case(batch=37, heads=2, dim=20, sequence=2, lengths=True), threads=2)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("cell", CASES)
def test_result_depends_on_the_run_the_threads_or_the_buffers(kernels, cell, dtype):
    case = CASES[cell](batch=2, heads=3, sequence=2, dtype=dtype, lengths=True, seed=5, **_wide(cell))
    first = kernels.run(case)
    for threads in (1, 2, 5):
        for in_place in (0, 1, ALL_IN_PLACE[cell]):
            for misalign in (False, True):
                varied = dataclasses.replace(case, in_place=in_place, misalign=misalign)
                for expected, actual in zip(first, kernels.run(varied, threads=threads), strict=True):
                    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def _wide(cell: str) -> dict[str, int]:
    return dict(dim_qk=20, dim_v=200) if cell == "mlstm" else dict(dim=50)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("cell", CASES)
def test_idle_row_loses_its_state_or_has_output(kernels, cell, in_place):
    case = CASES[cell](batch=3, sequence=2, lengths=True, in_place=ALL_IN_PLACE[cell] if in_place else 0)
    case.inputs["lengths"] = case.sent["lengths"] = np.array([0, 2, 1], np.int32)
    for name in kernels.instruction_sets():
        output, *states = kernels.run(case, name)
        assert not output[0].any() and output[1].all() and not output[2, 1].any()
        for state, value in zip(STATES[cell], states, strict=True):
            np.testing.assert_array_equal(value[0], case.sent[state][0])


@pytest.mark.parametrize("cell", CASES)
def test_padding_after_a_row_changes_its_state(kernels, cell):
    long = CASES[cell](batch=2, sequence=3, lengths=True, seed=3)
    long.inputs["lengths"] = long.sent["lengths"] = np.array([1, 1], np.int32)
    short = dataclasses.replace(long, inputs={
        name: array[:, :1] if name in "qkvifx" else array for name, array in long.inputs.items() if name != "lengths"
    })  # fmt: skip
    for padded, alone in zip(kernels.run(long)[1:], kernels.run(short)[1:], strict=True):
        np.testing.assert_array_equal(padded, alone)


def test_kernel_reads_beyond_a_tensor_or_is_undefined(kernels):
    folder = build("test_cpu_cells", *harness_options())
    for name in kernels.instruction_sets():
        done = subprocess.run([folder / "bin" / "test_cpu_cells", name], capture_output=True, text=True)
        assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
