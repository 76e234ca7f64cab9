"""Limits decide as they say, and a fault is put down to the right block."""

import numpy as np
import pytest
import torch

from xlstm_export.operators.eager import mlstm_cell
from xlstm_export.validation.scenarios import Scenario
from xlstm_export.validation.tolerance import Series, Tolerance
from xlstm_export.validation.verdict import first_fault, judge

STATES = [f"blocks.{b}.mlstm.{s}" for b in range(3) for s in ("C", "n", "m", "conv")]
QUIET, STEPS = 1e-7, 20


def series(error=QUIET, sensitivity=QUIET):
    full = [np.broadcast_to(np.asarray(value, float), STEPS).tolist() for value in (error, sensitivity)]
    return Series(tuple(range(STEPS)), *map(tuple, full))


def run(name="zeros", outputs=None, **states):
    """A run of 20 steps in which everything is quiet but what is given, `b1_C=` for `blocks.1.mlstm.C`."""
    given = {f"blocks.{key[1]}.mlstm.{key[3:]}": value for key, value in states.items()}
    return Scenario(
        name, name, False, 2, STEPS, {"y": outputs or series()}, [], [], {s: given.get(s, series()) for s in STATES}
    )


def fault(*runs):
    return first_fault(runs, judge(runs, Tolerance("float32")))


def from_step(step, error):
    return series(np.where(np.arange(STEPS) >= step, error, QUIET))


def test_floors_follow_from_the_dtype():
    assert Tolerance("float32").floor(512) < 1e-4
    assert Tolerance("float32").floor(512) == Tolerance("float32").floor(100_000)
    for dtype, roundoff in (("float32", 2**-24), ("float16", 2**-11), ("bfloat16", 2**-8)):
        assert Tolerance(dtype).unit_roundoff == roundoff
        assert Tolerance(dtype).floor(1) == pytest.approx(32 * roundoff + 3 * 2**-24)


@pytest.mark.parametrize("memory, passes", [(20, True), (1e7, False)])
def test_a_bfloat16_memory_passes_where_it_forgets_and_not_where_it_stands_still(memory, passes):
    """Keys and values with a common mean, 3,000 steps: beyond 256 additions of one sign, bfloat16 takes in no more."""
    generator = torch.Generator().manual_seed(0)
    wide = [torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8), torch.zeros(1, 1)]
    narrow = [wide[0].bfloat16(), *wide[1:]]
    errors = []
    for _ in range(3000):
        q, k, v = 1 + torch.randn(3, 1, 1, 1, 8, generator=generator)
        gates = torch.zeros(1, 1, 1), torch.full((1, 1, 1), float(np.log(memory - 1)))
        _, *wide = mlstm_cell(q, k, v, *gates, *wide, 1.0, 1.0, 0.0, 1e-6)
        _, *narrow = mlstm_cell(q, k, v, *gates, *narrow, 1.0, 1.0, 0.0, 1e-6)
        errors.append(float((narrow[0].float() - wide[0]).abs().max() / wide[0].abs().max()))
    series = Series(range(3000), errors, [0.0] * 3000)
    [typical] = Tolerance("bfloat16").limits(series, 3000, False)[:1]
    assert typical.kind == "typical" and typical.passed(series) == passes


def test_quiet_runs_pass():
    runs = [run("zeros"), run("drift")]
    assert all(v.passed for v in judge(runs, Tolerance("float32")))
    assert fault(*runs) is None


def test_a_lasting_error_fails_though_every_step_is_within_the_worst_steps_limit():
    tolerance = Tolerance("float32")
    spiky = np.full(STEPS, QUIET)
    spiky[3] = 1e-4  # one sensitive step: the worst one may reach 32 times that
    verdicts = judge([run(b1_C=series(1e-3, spiky))], tolerance)
    assert [(v.quantity, v.limit.kind) for v in verdicts if not v.passed] == [("blocks.1.mlstm.C", "typical")]


def test_a_magnified_rounding_passes_and_a_lone_outlier_does_not():
    spike = np.full(STEPS, QUIET)
    spike[7] = 1e-3
    assert fault(run(b0_n=series(3 * spike, spike))) is None
    found = fault(run(b0_n=series(spike, QUIET)))
    assert (found.step, found.quantity) == (7, "blocks.0.mlstm.n")


def test_outputs_that_magnify_every_rounding_do_not_pass_as_good():
    verdicts = judge([run(outputs=series(1e-3, 1e-3))], Tolerance("float32"))
    assert [v.limit.kind for v in verdicts if not v.passed] == ["contract"]


def test_a_few_errors_are_judged_by_the_worst():
    few = Series((0, 1, 2), (1e-5,) * 3, (QUIET,) * 3)
    long = Series(tuple(range(4)), (1e-5,) * 4, (QUIET,) * 4)
    tolerance = Tolerance("float32")
    kinds = {series: [limit.kind for limit in tolerance.limits(series, 128, True)] for series in (few, long)}
    assert kinds == {few: ["worst", "contract"], long: ["typical", "worst", "contract"]}
    assert all(limit.passed(few) for limit in tolerance.limits(few, 128, True))
    assert not tolerance.limits(long, 128, True)[0].passed(long)


def test_infinite_errors_fail():
    assert fault(run(outputs=from_step(19, np.inf))).step == 19


def test_the_first_block_of_the_model_is_named_not_the_first_step():
    wrong = run(b1_C=from_step(4, 0.1), b1_conv=from_step(4, 0.1), b2_C=from_step(2, 0.1), outputs=from_step(2, 0.1))
    found = fault(run("quiet"), wrong, run("drift", b0_C=series(0.1)))
    assert (found.run, found.block, found.step) == ("zeros", 1, 4)
    assert "blocks.1, up to its cell, or in blocks.0 behind the cell" in found.explanation


def test_a_right_convolution_window_puts_the_fault_behind_it():
    found = fault(run(b1_C=series(0.1), b2_conv=series(0.1)))
    assert "its convolution window is right, so the fault lies in blocks.1" in found.explanation


def test_the_embedding_is_suspected_before_the_first_block():
    assert "or in the embedding" in fault(run(b0_conv=series(0.1))).explanation


def test_right_states_and_wrong_outputs_mean_the_end_of_the_model():
    found = fault(run(outputs=series(0.1)))
    assert found.block is None
    assert "behind the cell of blocks.2, in the last norm or the head" in found.explanation


def test_fault_in_a_network_is_put_down_to_the_path_of_its_block():
    wrong, right = Series((19,), (0.1,), (QUIET,)), Series((19,), (QUIET,), (QUIET,))
    states = {"encoder.blocks.0.mlstm.C": right, "decoder.slstm.y": wrong, "decoder.slstm.m": wrong}
    found = fault(Scenario("whole", "whole", False, 2, STEPS, {"y": series()}, [], [], states))
    assert (found.block, found.step) == ("decoder.slstm", 19)
    assert found.explanation == "the fault lies in decoder.slstm, or in what feeds it"
    found = fault(Scenario("whole", "whole", False, 2, STEPS, {"y": series(0.1)}, [], [], dict.fromkeys(states, right)))
    assert found.block is None and "behind the cells" in found.explanation
