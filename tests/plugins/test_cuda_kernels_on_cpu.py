"""The CUDA kernels' own source, run on the CPU under sanitizers (address, undefined behaviour), against float64."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from support.cases import CHUNKS, GATES, TILES, mlstm_case, mlstm_parameters, slstm_case, slstm_parameters
from support.cell_runner import KERNEL_FILES, TYPES, Case, CellRunner, RunnerDied
from support.native import build_without_cuda

from xlstm_export.native import cmake

SCHEDULES = range(6)  # orders in which the simulated threads run
SWEEP = settings(
    max_examples=80, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def _program(name: str) -> Path:
    return build_without_cuda(name) / "bin" / name


@pytest.fixture(scope="module")
def runner():
    with CellRunner(_program("cell_runner_on_cpu")) as started:
        yield started


@pytest.fixture(scope="module")
def runner_of_sm75():
    with CellRunner(_program("cell_runner_on_cpu_sm75"), tensor_cores=False) as started:
        yield started


@pytest.fixture(scope="module", params=["plugin", "operator"])
def embedded_runner(request):
    with CellRunner(_program(f"{request.param}_runner_on_cpu"), embedded=True) as started:
        yield started


def _barriers(file: str) -> list[int]:
    lines = (cmake.sources() / "cells/cuda" / file).read_text().splitlines()
    waits = r"__syncthreads\(\)|__nanosleep\(|cluster_(arrive|wait|sync)\(\)|mbarrier_wait\(|wait_for_predecessors\(\)"
    barrier = re.compile(rf"[^/]*({waits}|wait_copies<)")
    return [number for number, line in enumerate(lines, 1) if barrier.match(line)]


def _is_wrong_without_barriers(runner, file: str, make) -> bool:
    """Whether some barrier of this file matters to the case that `make` gives with these options added."""
    for line in _barriers(file):
        try:
            runner.check(make(broken_file=file, broken_barrier=line))
        except (AssertionError, RunnerDied):
            return True
    return False


@SWEEP
@given(parameters=mlstm_parameters())
def test_mlstm_kernel_keeps_to_float64(runner, parameters):
    runner.check(mlstm_case(**parameters))


@SWEEP
@given(parameters=slstm_parameters())
def test_slstm_kernel_keeps_to_float64(runner, parameters):
    runner.check(slstm_case(**parameters))


@settings(SWEEP, max_examples=40)
@given(parameters=mlstm_parameters(max_size=33))
def test_mlstm_plugin_and_operator_keep_to_float64(embedded_runner, parameters):
    embedded_runner.check(mlstm_case(**parameters))


@settings(SWEEP, max_examples=40)
@given(parameters=slstm_parameters(max_size=33))
def test_slstm_plugin_and_operator_keep_to_float64(embedded_runner, parameters):
    embedded_runner.check(slstm_case(**parameters))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("in_place", [0, 7])
def test_mlstm_kernel_keeps_to_float64_at_the_shape_of_7b(runner, dtype, in_place):
    runner.check(mlstm_case(heads=2, dim_qk=256, dim_v=512, dtype=dtype, in_place=in_place, cap=15.0))


@pytest.mark.parametrize("in_place", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("tile", TILES)
def test_no_mlstm_block_overwrites_a_state_that_others_still_read(runner, tile, in_place):
    for sequence in (1, 3):
        runner.check(mlstm_case(heads=2, dim_v=160, sequence=sequence, in_place=in_place, tile=tile, lengths=True))


def test_mlstm_too_wide_for_the_chunkwise_kernel_keeps_to_float64(runner):
    runner.check(mlstm_case(batch=2, dim_qk=10 * 1024 + 1, dim_v=3, sequence=2, lengths=True, in_place=7))


@pytest.mark.parametrize(("dtype", "chunk"), [(dtype, chunk) for dtype in TYPES for chunk in CHUNKS[dtype]])
def test_chunkwise_kernel_keeps_to_float64(runner, runner_of_sm75, dtype, chunk):
    """Every shape: several slabs and tiles with odd edges, a row that ends inside a chunk, states in place or not."""
    for gates, in_place in (("usual", 0), ("wide", 7), ("extreme", 5)):
        sizes = {"batch": 2, "heads": 2, "dim_qk": 70, "dim_v": 2 * chunk[1] - 3, "sequence": chunk[0] + 9}
        options = {"dtype": dtype, "gates": gates, "in_place": in_place, "lengths": True, "cap": 15.0}
        runner.check(mlstm_case(**sizes, **options, chunk=chunk))
        if dtype != "float32":  # float32 arithmetic there, with shapes and bounds of its own
            chunk_of_sm75 = chunk if chunk in CHUNKS["float32"] else (32, 16)
            runner_of_sm75.check(mlstm_case(**sizes, **options, chunk=chunk_of_sm75))


@pytest.mark.parametrize(
    ("dim_qk", "dtype", "file"),
    [
        (1024, "float32", "mlstm_chunkwise.cuh"),
        (1024, "bfloat16", "mlstm_tensor.cuh"),
        (300, "float16", "mlstm_tensor.cuh"),
    ],
)
def test_wide_head_runs_in_the_chunkwise_kernel_within_99_kib_of_shared_memory(runner, dim_qk, dtype, file):
    """On a device with 99 KiB for a block; the launcher must use the chunkwise kernel."""
    sizes = {"dim_qk": dim_qk, "dim_v": 20, "sequence": 33, "dtype": dtype}
    runner.check(mlstm_case(**sizes))
    assert _is_wrong_without_barriers(runner, file, lambda **options: mlstm_case(**sizes, **options))


@pytest.mark.parametrize(
    ("sizes", "file"),
    [
        ({"cell": "mlstm", "sequence": 1}, "mlstm_step.cuh"),
        ({"cell": "mlstm", "sequence": 40}, "mlstm_chunkwise.cuh"),
        ({"cell": "mlstm", "sequence": 40, "dtype": "bfloat16"}, "mlstm_tensor.cuh"),
        ({"cell": "mlstm", "sequence": 3, "shared_limit": 16 * 1024}, "mlstm_step.cuh"),
        ({"cell": "slstm", "sequence": 1}, "slstm_step.cuh"),
        ({"cell": "slstm", "sequence": 1, "batch": 17, "dim": 72, "dtype": "bfloat16"}, "slstm_batch.cuh"),
        ({"cell": "slstm", "sequence": 3}, "slstm_cluster.cuh"),
        ({"cell": "slstm", "sequence": 3, "clusters": False}, "slstm_sequence.cuh"),
        ({"cell": "slstm", "sequence": 3, "clusters": False, "multiprocessors": 1}, "slstm_step.cuh"),
        ({"cell": "slstm", "sequence": 3, "clusters": False, "shared_limit": 4 * 1024}, "slstm_step.cuh"),
        ({"cell": "slstm", "sequence": 3, "clusters": False, "resident_blocks": 1}, "slstm_step.cuh"),
    ],
)
def test_launcher_takes_the_kernel_that_is_meant_for_the_sizes(runner, sizes, file):
    """The kernel that is meant to run is the one whose barriers are missed."""
    sizes = {"heads": 2, **sizes}
    make = {"mlstm": mlstm_case, "slstm": slstm_case}[sizes.pop("cell")]
    for other in KERNEL_FILES:
        assert _is_wrong_without_barriers(runner, other, lambda **options: make(**sizes, **options)) == (other == file)


@pytest.mark.parametrize(
    ("sizes", "chunk"),
    [
        ({"dtype": "float32", "dim_v": 128}, (64, 32)),  # 2 blocks on a multiprocessor have its shared memory, not 3
        ({"dtype": "float32", "dim_v": 128, "sequence": 32}, (32, 32)),  # short chunks among themselves
        ({"dtype": "float32", "dim_v": 16, "dim_qk": 512}, (32, 16)),  # where long ones do not fit
        ({"dtype": "bfloat16", "dim_v": 64}, (64, 16)),  # no multiprocessor idle
        ({"dtype": "bfloat16", "dim_v": 64, "batch": 4}, (64, 32)),  # all have blocks
        ({"dtype": "bfloat16", "dim_v": 64, "batch": 4, "dim_qk": 400}, (64, 16)),  # 32 columns have no registers
        ({"dtype": "float16", "dim_v": 64, "batch": 4, "dim_qk": 300}, (64, 16)),  # nor for two parts of float16
        ({"dtype": "bfloat16", "dim_qk": 1025}, (0, 0)),
    ],
)
def test_launcher_takes_the_shape_that_keeps_the_device_busy(runner, sizes, chunk):
    """On four multiprocessors with 99 KiB for a block."""
    sizes = {"sequence": 40, "dim_qk": 64, **sizes}
    assert runner.run(mlstm_case(**sizes, choose=True)) == (1 + chunk[0] * 3 + chunk[1], [])


@pytest.mark.parametrize("cell", ["mlstm", "slstm"])
@pytest.mark.parametrize("gates", GATES)
def test_sequence_at_once_equals_its_single_steps(runner, cell, gates):
    """One call for S positions against S calls for one, each on what the call before left."""
    sequence = 37 if cell == "mlstm" else 9
    sizes = {"batch": 2, "heads": 2, "sequence": sequence, "gates": gates, "multiprocessors": 9}
    case = mlstm_case(**sizes, dim_qk=40, dim_v=20) if cell == "mlstm" else slstm_case(**sizes, dim=20)
    states, activations = ("Cnm", "qkvif") if cell == "mlstm" else ("ycnm", "x")
    status, (output, *after) = runner.run(case)
    assert status == 0
    outputs, inputs = [], dict(case.sent)
    for t in range(sequence):
        step = {**inputs, **{name: case.sent[name][:, t : t + 1] for name in activations}}
        status, (part, *left) = runner.run(Case(cell, "float32", step, case.attributes))
        assert status == 0
        outputs.append(part)
        inputs |= dict(zip(states, left, strict=True))
    # Steps round the exponents of the mLSTM's gates one by one, the chunkwise kernel sums them in double.
    exponents = max(np.abs(case.sent[name]).max() for name in "ifm") * 2.0**-24 if cell == "mlstm" else 0
    for name, at_once, stepwise in zip(
        ("output", *states), (output, *after), (np.concatenate(outputs, 1), *(inputs[s] for s in states)), strict=True
    ):
        relative, absolute = 1e-4 + 4 * exponents, (2e-5 + 4 * exponents) * np.abs(stepwise).max()
        if name == "m" and cell == "mlstm":
            relative, absolute = 0, sequence * exponents
        np.testing.assert_allclose(at_once, stepwise, rtol=relative, atol=absolute, err_msg=name)


@pytest.mark.parametrize("cell", ["mlstm", "slstm"])
def test_small_launch_takes_no_shared_memory_from_a_large_one(cell):
    """The limit is the kernel's, and another thread may be about to launch; the simulator ends where it falls."""
    with CellRunner(_program("cell_runner_on_cpu")) as fresh:
        for dim in (96, 8):
            sizes = {"sequence": 3, "multiprocessors": 1, "clusters": False}
            fresh.check(mlstm_case(dim_qk=dim, **sizes) if cell == "mlstm" else slstm_case(dim=dim, **sizes))


def test_wide_heads_of_slstm_keep_to_float64(runner):
    """A cluster of more than eight blocks; and R too wide for the registers, but not for the shared memory."""
    runner.check(slstm_case(dim=264, sequence=2, dtype="bfloat16", recurrent="bfloat16"))
    runner.check(slstm_case(dim=200, sequence=2, multiprocessors=7, shared_limit=227 * 1024))


def test_second_call_finds_the_workspace_as_the_first_did(runner):
    runner.check(slstm_case(batch=2, sequence=4, heads=2, capture=True, in_place=15))


@pytest.mark.parametrize("cell", ["mlstm", "slstm"])
def test_idle_row_keeps_its_state_and_has_no_output(runner, cell):
    for in_place in (0, 15 if cell == "slstm" else 7):
        case = (mlstm_case if cell == "mlstm" else slstm_case)(batch=3, sequence=2, in_place=in_place)
        case.inputs["lengths"] = case.sent["lengths"] = np.array([0, 2, 0], np.int32)
        for name in "qkvif" if cell == "mlstm" else "x":
            case.sent[name][[0, 2]] = np.nan  # whatever lies beyond a row's length must not be used
        status, (output, *states) = runner.run(case)
        assert status == 0
        for name, state in zip("Cnm" if cell == "mlstm" else "ycnm", states, strict=True):
            np.testing.assert_array_equal(state[[0, 2]], case.sent[name][[0, 2]])
            assert np.isfinite(state).all()
        assert not output[[0, 2]].any() and output[1].any()


@pytest.mark.parametrize("cell", ["mlstm", "slstm"])
def test_launcher_refuses_what_it_cannot_run(runner, cell):
    invalid_value = 1
    if cell == "mlstm":
        wrong = [mlstm_case(tile=(4, 16)), mlstm_case(dim_v=30, tile=(4, 8)), mlstm_case(misalign=True, tile=(4, 8))]
    else:
        wrong = [slstm_case(no_workspace=True, in_place=1), slstm_case(no_workspace=True, sequence=2)]
        wrong.append(slstm_case(dtype="float16", recurrent="bfloat16"))
        runner.check(slstm_case(no_workspace=True, in_place=14))  # y out of place: no workspace needed
    for case in wrong:
        assert runner.run(case) == (invalid_value, [])


def test_bounds_are_tight_enough_to_show_an_error():
    """At usual gates the worst case of the roundings stays below 2**-12 of the largest value."""
    for expected in mlstm_case(dim_qk=64, dim_v=64).expected() + slstm_case(dim=64).expected():
        assert expected.bound.max() < 2.0**-12 * max(1, np.abs(expected.value).max()), expected.name


def _cases_with_broken_barrier(file: str, **options) -> list:
    """Cases that need every barrier of the file: several blocks, chunks, positions, groups of rows; states in place."""
    if file == "mlstm_step.cuh":
        sizes = {"dim_qk": 64, "dim_v": 144, "tile": (4, 32), "in_place": 7}
        return [mlstm_case(sequence=sequence, **sizes, **options) for sequence in (1, 2)]
    if file == "mlstm_chunkwise.cuh":
        return [mlstm_case(dim_qk=40, dim_v=40, sequence=70, chunk=(32, 32), in_place=7, **options)]
    if file == "mlstm_tensor.cuh":
        sizes = {"dim_qk": 70, "dim_v": 18, "sequence": 70, "chunk": (64, 16), "dtype": "bfloat16"}
        vectors = {"dim_qk": 72, "dim_v": 24}
        return [mlstm_case(**sizes | other, **options) for other in ({}, vectors)]
    if file == "mlstm_sequence_normaliser.cuh":
        sizes = {"dim_qk": 8, "dim_v": 18, "chunk": (64, 16), "dtype": "bfloat16", "in_place": 7}
        return [mlstm_case(sequence=sequence, **sizes, **options) for sequence in (70, 520)]
    if file == "slstm_step.cuh":
        return [slstm_case(dim=32, batch=2, sequence=sequence, in_place=15, **options) for sequence in (1, 2)]
    if file == "slstm_batch.cuh":
        return [slstm_case(dim=72, batch=17, dtype="bfloat16", in_place=14, **options)]
    sizes = {"heads": 2, "sequence": 4, "multiprocessors": 7, "in_place": 15}
    if file == "slstm_cluster.cuh":
        return [slstm_case(batch=3, dim=40, **sizes, **options)]
    return [slstm_case(batch=batch, dim=24, clusters=False, **sizes, **options) for batch in (8, 9)]


@pytest.mark.parametrize(("file", "line"), [(file, line) for file in KERNEL_FILES for line in _barriers(file)])
def test_missing_barrier_is_noticed(runner, file, line):
    """Every barrier left out in turn: some order of the threads must then give a wrong result."""
    for schedule in SCHEDULES:
        for case in _cases_with_broken_barrier(file, schedule=schedule, broken_file=file, broken_barrier=line):
            try:
                runner.check(case)
            except (AssertionError, RunnerDied):
                return
    pytest.fail(f"{file} works without its barrier in line {line}")
