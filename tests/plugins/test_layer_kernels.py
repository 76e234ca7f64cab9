"""The CPU kernels of what stands around the cells, on each instruction set of this processor, against float64."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from support.cell_runner import TYPES, from_bytes, to_bytes
from support.cpu_harness import CpuKernels
from support.layer_cases import OPERATORS, LayerCase, layer_case

from xlstm_export.operators.names import CAUSAL_CONV, GATED_HEAD_NORM, MLSTM_PROJECTIONS, SKIP_GATED_HEAD_NORM

SEEDS = range(16)
_HEAD_NORM = "positions heads dim:i64 type:i32 h weight gate skip x y:pointer eps:f32"
# The structures of plugins/cells/layers.h, and the functions of the harness.
LAYOUTS = {
    CAUSAL_CONV: "batch sequence dim kernel:i64 x window weight bias lengths y window_next:pointer",
    MLSTM_PROJECTIONS: "batch sequence heads inner width:i64 type:i32 x_conv x q_weight k_weight v_weight i_weight "
    "i_bias f_weight f_bias lengths q k v i f:pointer",
    GATED_HEAD_NORM: _HEAD_NORM,
    SKIP_GATED_HEAD_NORM: _HEAD_NORM,
}
FUNCTIONS = {
    CAUSAL_CONV: "xlstm_causal_conv",
    MLSTM_PROJECTIONS: "xlstm_mlstm_projections",
    GATED_HEAD_NORM: "xlstm_gated_head_norm",
    SKIP_GATED_HEAD_NORM: "xlstm_gated_head_norm",
}
KINDS = {"i64": ctypes.c_int64, "i32": ctypes.c_int32, "f32": ctypes.c_float, "pointer": ctypes.c_void_p}


def _structure(layout: str) -> type[ctypes.Structure]:
    fields, names = [], []
    for word in layout.split():
        name, _, kind = word.partition(":")
        names.append(name)
        if kind:
            fields += [(one, KINDS[kind]) for one in names]
            names = []
    return type("Arguments", (ctypes.Structure,), {"_fields_": fields})


STRUCTURES = {name: _structure(layout) for name, layout in LAYOUTS.items()}


@pytest.fixture(scope="module")
def kernels() -> CpuKernels:
    return CpuKernels()


def run(kernels: CpuKernels, case: LayerCase, dtype: str, instruction_set: str, threads: int, in_place: bool = False):
    """The outputs by name, float32."""
    half = {n for n, t in case.tensors.items() if t.dtype != torch.float32} | ({"h"} & {*case.tensors})
    half |= {*case.outputs} if case.name == MLSTM_PROJECTIONS else set()
    sent = {
        n: np.frombuffer(bytearray(to_bytes(t.float().numpy(), dtype if n in half else "float32")), np.uint8)
        for n, t in case.tensors.items()
    }
    sizes, shapes = _sizes(case)
    results = {n: np.full(4 * int(np.prod(s)) + 4, 0xFF, np.uint8) for n, s in shapes.items()}  # all NaN
    if in_place:
        results["window_next"] = sent["window"]
    pointers = {n: buffer.ctypes.data for n, buffer in (sent | results).items()}
    lengths = None if case.lengths is None else case.lengths.numpy()
    if lengths is not None:
        pointers["lengths"] = lengths.ctypes.data
    fields = {name for name, _ in STRUCTURES[case.name]._fields_}
    values = sizes | pointers | {"type": TYPES.index(dtype)} | case.attributes
    arguments = STRUCTURES[case.name](**{n: v for n, v in values.items() if n in fields})
    kernels.call(FUNCTIONS[case.name], arguments, instruction_set, threads)
    width = {n: "float32" if n not in half else dtype for n in shapes}
    item = {n: 4 if kind == "float32" else 2 for n, kind in width.items()}
    return {n: from_bytes(results[n].tobytes()[: item[n] * int(np.prod(s))], s, width[n]) for n, s in shapes.items()}


def _sizes(case: LayerCase) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Numbers of the structure, and the shapes of the outputs."""
    t, rows = case.tensors, {"batch": case.batch, "sequence": case.sequence}
    if case.name == CAUSAL_CONV:
        kernel, dim = t["weight"].shape
        return rows | {"dim": dim, "kernel": kernel}, {"y": t["x"].shape, "window_next": t["window"].shape}
    if case.name == MLSTM_PROJECTIONS:
        heads, inner = t["i_bias"].shape[0], t["x"].shape[1]
        shapes = dict.fromkeys("qkv", t["x"].shape) | dict.fromkeys("if", (t["x"].shape[0], heads))
        return rows | {"heads": heads, "inner": inner, "width": t["q_weight"].shape[1]}, shapes
    heads, dim = t["weight"].shape
    return {"positions": t["gate"].shape[0], "heads": heads, "dim": dim}, {"y": t["gate"].shape}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_kernel_keeps_to_float64_and_every_run_gives_the_same_bits(kernels, name, dtype):
    if name == CAUSAL_CONV and dtype != "float32":
        pytest.skip("it is float32 in every bundle")
    for seed in SEEDS:
        case = layer_case(name, seed, lengths=seed % 2 == 1, dtype=dtype)
        for instruction_set in kernels.instruction_sets():
            results = run(kernels, case, dtype, instruction_set, threads=1)
            case.check(results)
            others = run(kernels, case, dtype, instruction_set, threads=3, in_place=name == CAUSAL_CONV)
            for output, value in results.items():
                np.testing.assert_array_equal(others[output].view(np.uint32), value.view(np.uint32), err_msg=output)


@pytest.mark.parametrize("name", [CAUSAL_CONV, MLSTM_PROJECTIONS])
def test_padding_is_not_read_and_its_outputs_are_zero(kernels, name):
    for seed in SEEDS:
        case = layer_case(name, seed, lengths=True)
        beyond = torch.arange(case.sequence) >= case.lengths[:, None]
        for tensor in ("x", "x_conv"):
            if tensor in case.tensors:
                case.tensors[tensor][beyond.reshape(-1)] = torch.nan
        for output, value in run(kernels, case, "float32", "", threads=2).items():
            assert np.isfinite(value).all(), output
            assert output == "window_next" or not value[beyond.reshape(-1).numpy()].any()
