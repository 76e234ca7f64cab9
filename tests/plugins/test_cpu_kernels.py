"""The CPU kernels on each instruction set of this processor, against float64."""

from __future__ import annotations

import dataclasses
import subprocess

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from support.cases import mlstm_case, mlstm_parameters, slstm_case, slstm_parameters
from support.cell_runner import TYPES, Case
from support.cpu_harness import STATES, CpuKernels
from support.native import build_without_cuda

SWEEP = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
CASES = {"mlstm": mlstm_case, "slstm": slstm_case}
ALL_IN_PLACE = {"mlstm": 0b111, "slstm": 0b1111}
# Around the widths of tiles and vectors, around a chunk of the mLSTM (64) and a span between passes over C (256).
SEQUENCES = [2, 5, 17, 63, 64, 65, 130, 300]


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
def test_mlstm_kernel_keeps_to_float64(kernels, parameters):
    _check(kernels, mlstm_case(**parameters), threads=1 + parameters["seed"] % 3)


@SWEEP
@given(parameters=slstm_parameters())
def test_slstm_kernel_keeps_to_float64(kernels, parameters):
    _check(kernels, slstm_case(**parameters), threads=1 + parameters["seed"] % 3)


@pytest.mark.parametrize("in_place", [0, 7])
@pytest.mark.parametrize(
    "sizes",
    [dict(heads=2, dim_qk=256, dim_v=512), dict(heads=4, dim_qk=256, dim_v=384), dict(heads=1, dim_qk=8, dim_v=2064)],
    ids=["7B", "stores past the caches", "wider than a task"],
)
def test_large_mlstm_keeps_to_float64(kernels, sizes, in_place):
    _check(kernels, mlstm_case(**sizes, in_place=in_place, cap=15.0), threads=2)


def _sequence_case(cell: str, sequence: int, **options: object) -> Case:
    """Five rows of `sequence` positions, the first one whole, the others of random length."""
    sizes = {"dim_qk": 33, "dim_v": 50} if cell == "mlstm" else {"dim": 33}
    lengths = [sequence, *np.random.default_rng(options.get("seed", 0)).integers(0, sequence + 1, 4)]
    return CASES[cell](batch=5, heads=2, sequence=sequence, lengths=lengths, **sizes, **options)


@pytest.mark.parametrize("gates", ["usual", "wide", "extreme"])
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_mlstm_sequence_keeps_to_float64(kernels, sequence, gates):
    for seed, dtype in enumerate(TYPES):
        options = dict(zero_state=seed == 1, in_place=ALL_IN_PLACE["mlstm"] if seed == 2 else 0, seed=seed)
        case = _sequence_case("mlstm", sequence, dtype=dtype, gates=gates, cap=15.0 * (gates == "usual"), **options)
        _check(kernels, case, threads=1 + seed)


def test_wide_mlstm_sequence_keeps_to_float64(kernels):
    _check(kernels, mlstm_case(heads=2, sequence=70, dim_qk=200, dim_v=130), threads=2)


@pytest.mark.parametrize("gates", ["usual", "wide", "extreme"])
@pytest.mark.parametrize("threads", [1, 5])
def test_slstm_sequence_keeps_to_float64_at_every_position(kernels, threads, gates):
    """From the kernel's own states before a position, the position must follow as float64 says.

    Over many positions a bound would mean nothing: the network is chaotic, and multiplies what rounding does.
    """
    for seed, dtype in enumerate(TYPES):
        case = slstm_case(
            batch=5,
            sequence=130,
            dim=33,
            dtype=dtype,
            recurrent=dtype,
            gates=gates,
            seed=seed,
            clamp=15.0 * seed,
        )

        def run_until(position: int, name: str, case=case) -> list[np.ndarray]:
            lengths = np.full(5, position)
            return kernels.run(dataclasses.replace(case, inputs=case.inputs | {"lengths": lengths}), name, threads)

        for name in kernels.instruction_sets():
            for t in (0, 1, 2, 17, 63, 64, 129):
                states = dict(zip("ycnm", run_until(t, name)[1:], strict=True))
                hidden, *after = run_until(t + 1, name)
                one = case.inputs | states | {"x": case.inputs["x"][:, t : t + 1]}
                expected = dataclasses.replace(case, inputs=one).expected()
                problems = [e.check(a) for e, a in zip(expected, [hidden[:, t : t + 1], *after], strict=True)]
                assert not any(problems), f"{name}, position {t}: " + "; ".join(filter(None, problems))


@pytest.mark.parametrize("gates", ["usual", "extreme"])
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_mlstm_sequence_equals_its_single_steps_within_bounds(kernels, sequence, gates):
    """Each is within its bounds of float64, so they differ by twice the bounds at most; m not at all."""
    case = _sequence_case("mlstm", sequence, gates=gates)
    whole, steps = kernels.run(case), _run_steps(kernels, case)
    for expected, one, other in zip(case.expected(), whole, steps, strict=True):
        assert (np.abs(one.astype(np.float64) - other) <= 2 * expected.bound).all(), expected.name
    np.testing.assert_array_equal(whole[-1].view(np.uint32), steps[-1].view(np.uint32))


def _run_steps(kernels: CpuKernels, case: Case) -> list[np.ndarray]:
    """As `kernels.run` of an mLSTM, in one call for each position."""
    inputs, outputs = dict(case.inputs), []
    for t in range(case.inputs["q"].shape[1]):
        inputs |= {name: case.inputs[name][:, t : t + 1] for name in "qkvif"}
        inputs["lengths"] = (case.inputs["lengths"] > t).astype(np.int32)
        output, *states = kernels.run(dataclasses.replace(case, inputs=inputs))
        inputs |= dict(zip("Cnm", states, strict=True))
        outputs.append(output)
    return [np.concatenate(outputs, 1), *states]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sequence", [2, 17, 65, 130])
@pytest.mark.parametrize("cell", CASES)
def test_padding_changes_no_result(kernels, cell, sequence, dtype):
    poisoned = _sequence_case(cell, sequence, dtype=dtype)
    inputs = {name: np.nan_to_num(array, nan=1.0) for name, array in poisoned.inputs.items()}
    assert any((inputs[name] != array).any() for name, array in poisoned.inputs.items()), "there is no padding"
    case = dataclasses.replace(poisoned, inputs=inputs)
    for name in kernels.instruction_sets():
        for expected, actual in zip(kernels.run(case, name), kernels.run(poisoned, name), strict=True):
            np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def test_mlstm_sequence_is_the_same_with_little_scratch_memory(kernels):
    """Ten heads at once are too many for spans of 256 positions; two are not."""
    case = mlstm_case(heads=10, dim_qk=1024, dim_v=8, sequence=256, seed=1)
    for expected, actual in zip(kernels.run(case, threads=1), kernels.run(case, threads=5), strict=True):
        np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def test_slstm_of_a_batch_larger_than_a_tile_keeps_to_float64(kernels):
    _check(kernels, slstm_case(batch=37, heads=2, dim=20, sequence=2, lengths=True), threads=2)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sequence", [1, 2, 130])
@pytest.mark.parametrize("cell", CASES)
def test_result_depends_neither_on_the_run_nor_on_threads_or_buffers(kernels, cell, sequence, dtype):
    case = CASES[cell](batch=2, heads=3, sequence=sequence, dtype=dtype, lengths=True, seed=5, **_wide(cell))
    for name in kernels.instruction_sets():
        first = kernels.run(case, name)
        for threads in (1, 2, 5):
            for in_place in (0, 1, ALL_IN_PLACE[cell]):
                for misalign in (False, True):
                    varied = dataclasses.replace(case, in_place=in_place, misalign=misalign)
                    for expected, actual in zip(first, kernels.run(varied, name, threads), strict=True):
                        np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def _wide(cell: str) -> dict[str, int]:
    return dict(dim_qk=20, dim_v=200) if cell == "mlstm" else dict(dim=50)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("cell", CASES)
def test_idle_row_keeps_its_state_and_has_no_output(kernels, cell, in_place):
    case = CASES[cell](batch=3, sequence=2, lengths=[0, 2, 1], in_place=ALL_IN_PLACE[cell] if in_place else 0)
    for name in kernels.instruction_sets():
        output, *states = kernels.run(case, name)
        assert not output[0].any() and output[1].all() and not output[2, 1].any()
        for state, value in zip(STATES[cell], states, strict=True):
            np.testing.assert_array_equal(value[0], case.sent[state][0])


@pytest.mark.parametrize("sequence, length", [(5, 3), (130, 70)])
@pytest.mark.parametrize("cell", CASES)
def test_padding_after_a_row_leaves_its_state_alone(kernels, cell, sequence, length):
    long = CASES[cell](batch=2, sequence=sequence, lengths=[length, length], seed=3)
    short = dataclasses.replace(
        long,
        inputs={
            name: array[:, :length] if name in "qkvifx" else array
            for name, array in long.inputs.items()
            if name != "lengths"
        },
    )
    for padded, alone in zip(kernels.run(long)[1:], kernels.run(short)[1:], strict=True):
        np.testing.assert_array_equal(padded, alone)


def test_sanitizers_find_nothing_in_the_kernels(kernels):
    folder = build_without_cuda("test_cpu_cells")
    for name in kernels.instruction_sets():
        done = subprocess.run([folder / "bin" / "test_cpu_cells", name], capture_output=True, text=True)
        assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
