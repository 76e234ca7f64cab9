"""The CUDA kernels on a real GPU, alone, in TensorRT's plugin and in ONNX Runtime's operators: float64, CUDA graphs."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from support.cases import mlstm_case, mlstm_parameters, slstm_case, slstm_parameters
from support.cell_runner import TYPES, CellRunner

from xlstm_export.nvidia.driver import list_gpus

SWEEP = settings(
    max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
# Heads, DK, DV (mLSTM) or DH (sLSTM): xLSTM-7B, and the paper's 125M and 1.3B.
MLSTM_SHAPES = [(8, 256, 512), (4, 384, 384), (4, 1024, 1024)]
SLSTM_SHAPES = [(4, 192), (4, 384), (4, 512)]


@pytest.fixture(scope="module", params=["cell", "plugin", "operator"])
def runner(request, gpu_folder):
    program, embedded = gpu_folder / "bin" / f"{request.param}_runner_gpu", request.param != "cell"
    if not program.exists():
        pytest.skip(f"the headers that {program.name} is compiled with are not here")
    tensor_cores = list_gpus()[0].capability >= (8, 0)
    with CellRunner(program, tensor_cores=tensor_cores, embedded=embedded) as started:
        yield started


@SWEEP
@given(parameters=mlstm_parameters())
def test_mlstm_keeps_to_float64(runner, parameters):
    runner.check(mlstm_case(**parameters))


@SWEEP
@given(parameters=slstm_parameters())
def test_slstm_keeps_to_float64(runner, parameters):
    runner.check(slstm_case(**parameters))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("shape", MLSTM_SHAPES)
def test_mlstm_keeps_to_float64_at_model_shapes(runner, shape, batch, dtype):
    heads, dim_qk, dim_v = shape
    for in_place in (0, 7):
        runner.check(
            mlstm_case(batch=batch, heads=heads, dim_qk=dim_qk, dim_v=dim_v, dtype=dtype, in_place=in_place, cap=15.0)
        )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("batch", [1, 9, 33])
@pytest.mark.parametrize("shape", SLSTM_SHAPES)
def test_slstm_keeps_to_float64_at_model_shapes(runner, shape, batch, dtype):
    heads, dim = shape
    for recurrent in {"float32", dtype}:
        for in_place in (0, 15):
            runner.check(
                slstm_case(batch=batch, heads=heads, dim=dim, dtype=dtype, recurrent=recurrent, in_place=in_place)
            )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("in_place", [False, True])
def test_prefill_keeps_to_float64_at_model_shapes(runner, in_place, dtype):
    """Rows that end at different positions; two heads of the mLSTM, since the float64 recurrence takes its time."""
    common = {"sequence": 150, "dtype": dtype, "lengths": True}
    for _, dim_qk, dim_v in MLSTM_SHAPES:
        runner.check(mlstm_case(heads=2, dim_qk=dim_qk, dim_v=dim_v, in_place=7 * in_place, cap=15.0, **common))
    for batch in (1, 9):
        for heads, dim in SLSTM_SHAPES:
            for recurrent in {"float32", dtype}:
                options = {
                    "batch": batch,
                    "heads": heads,
                    "dim": dim,
                    "recurrent": recurrent,
                    "in_place": 15 * in_place,
                }
                runner.check(slstm_case(**options, **common))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("sequence", [1, 3, 70])
def test_replayed_cuda_graph_keeps_to_float64(runner, sequence, in_place):
    """Captured once, replayed twice on fresh inputs; what cannot be captured fails to launch."""
    for dtype in TYPES:
        common = {"batch": 2, "sequence": sequence, "heads": 2, "dtype": dtype, "capture": True, "lengths": True}
        runner.check(mlstm_case(dim_qk=64, dim_v=256, in_place=7 if in_place else 0, **common))
        runner.check(slstm_case(dim=64, in_place=15 if in_place else 0, **common))
