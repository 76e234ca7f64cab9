"""The CPU kernels of what stands around the cells, on each instruction set of this processor, against float64."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from support.cell_runner import TYPES, from_bytes, to_bytes
from support.cpu_harness import CpuKernels
from support.layer_cases import OPERATORS, LayerCase, layer_case

from xlstm_export.operators.names import (
    ADD_LAYER_NORM,
    ADD_RMS_NORM,
    CAUSAL_CONV,
    GATED_HEAD_NORM,
    GEGLU,
    HEAD_NORM,
    MLSTM_HEADS,
    MLSTM_PROJECTIONS,
    SKIP_GATED_HEAD_NORM,
    SLSTM_PROJECTIONS,
    SOFT_CAP,
    SWIGLU,
)

SEEDS = range(16)
_HEAD_NORM = "positions heads dim gate_width:i64 type:i32 h weight gate skip x y:pointer eps:f32"
_ADD_NORM = "positions dim:i64 type:i32 centred:bool x y weight normal x_next:pointer eps:f32"
_UNIT = "positions dim:i64 type:i32 gelu:bool x y:pointer"
# The structures of plugins/cells/layers.h, and the functions of the harness.
LAYOUTS = {
    CAUSAL_CONV: "batch sequence dim kernel x_width:i64 x window weight bias lengths y window_next:pointer",
    MLSTM_PROJECTIONS: "batch sequence heads inner width x_width:i64 type:i32 x_conv x q_weight k_weight v_weight "
    "i_weight i_bias f_weight f_bias lengths q k v i f:pointer",
    SLSTM_PROJECTIONS: "positions heads dim:i64 type:i32 x_conv x i_weight f_weight z_weight o_weight gates:pointer",
    MLSTM_HEADS: "positions heads qk_head v_head:i64 type:i32 x gates q k v i f o:pointer",
    HEAD_NORM: _HEAD_NORM,
    GATED_HEAD_NORM: _HEAD_NORM,
    SKIP_GATED_HEAD_NORM: _HEAD_NORM,
    ADD_LAYER_NORM: _ADD_NORM,
    ADD_RMS_NORM: _ADD_NORM,
    GEGLU: _UNIT,
    SWIGLU: _UNIT,
    SOFT_CAP: "count:i64 type:i32 x y:pointer cap:f32",
}
FUNCTIONS = {
    CAUSAL_CONV: "xlstm_causal_conv",
    MLSTM_PROJECTIONS: "xlstm_mlstm_projections",
    SLSTM_PROJECTIONS: "xlstm_slstm_projections",
    MLSTM_HEADS: "xlstm_mlstm_heads",
    **dict.fromkeys((HEAD_NORM, GATED_HEAD_NORM, SKIP_GATED_HEAD_NORM), "xlstm_head_norm"),
    **dict.fromkeys((ADD_LAYER_NORM, ADD_RMS_NORM), "xlstm_add_norm"),
    **dict.fromkeys((GEGLU, SWIGLU), "xlstm_gated_linear_unit"),
    SOFT_CAP: "xlstm_soft_cap",
}
IN_PLACE = {CAUSAL_CONV: ("window_next", "window"), ADD_LAYER_NORM: ("x_next", "x"), ADD_RMS_NORM: ("x_next", "x")}
KINDS = {"i64": ctypes.c_int64, "i32": ctypes.c_int32, "f32": ctypes.c_float, "pointer": ctypes.c_void_p}
KINDS["bool"] = ctypes.c_bool


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
    sent = {
        n: np.frombuffer(bytearray(to_bytes(t.float().numpy(), dtype if n in case.typed else "float32")), np.uint8)
        for n, t in case.tensors.items()
    }
    sizes, shapes = _sizes(case)
    results = {n: np.full(4 * int(np.prod(s)) + 4, 0xFF, np.uint8) for n, s in shapes.items()}  # all NaN
    if in_place and case.name in IN_PLACE:
        after, before = IN_PLACE[case.name]
        results[after] = sent[before]
    pointers = {n: buffer.ctypes.data for n, buffer in (sent | results).items()}
    lengths = None if case.lengths is None else case.lengths.numpy()
    if lengths is not None:
        pointers["lengths"] = lengths.ctypes.data
    fields = {name for name, _ in STRUCTURES[case.name]._fields_}
    values = sizes | pointers | {"type": TYPES.index(dtype)} | case.attributes
    arguments = STRUCTURES[case.name](**{n: v for n, v in values.items() if n in fields})
    kernels.call(FUNCTIONS[case.name], arguments, instruction_set, threads)
    width = {n: dtype if n in case.typed else "float32" for n in shapes}
    for n, shape in shapes.items():
        used = (4 if width[n] == "float32" else 2) * int(np.prod(shape))
        assert in_place or (results[n][used:] == 0xFF).all(), f"written beyond {n}"
    item = {n: 4 if kind == "float32" else 2 for n, kind in width.items()}
    return {n: from_bytes(results[n].tobytes()[: item[n] * int(np.prod(s))], s, width[n]) for n, s in shapes.items()}


def _sizes(case: LayerCase) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Numbers of the structure, and the shapes of the outputs."""
    t, rows = case.tensors, {"batch": case.batch, "sequence": case.sequence}
    if case.name == CAUSAL_CONV:
        kernel, dim = t["weight"].shape
        sizes = rows | {"dim": dim, "kernel": kernel, "x_width": t["x"].shape[1]}
        return sizes, {"y": (len(t["x"]), dim), "window_next": t["window"].shape}
    if case.name == MLSTM_PROJECTIONS:
        heads, (count, inner) = t["i_bias"].shape[0], t["x_conv"].shape
        shapes = dict.fromkeys("qkv", (count, inner)) | dict.fromkeys("if", (count, heads))
        sizes = {"heads": heads, "inner": inner, "width": t["q_weight"].shape[1], "x_width": t["x"].shape[1]}
        return rows | sizes, shapes
    if case.name == SOFT_CAP:
        return {"count": t["x"].numel()}, {"y": t["x"].shape}
    if "h" in t:
        heads, dim = t["weight"].shape
        count = t["h"].numel() // (heads * dim)
        sizes = {"heads": heads, "dim": dim, "gate_width": t["gate"].shape[1] if "gate" in t else 0}
        return {"positions": count} | sizes, {"y": (count, heads * dim)}
    count, width = t["x"].shape
    if case.name == SLSTM_PROJECTIONS:
        heads, dim, _ = t["i_weight"].shape
        return {"positions": count, "heads": heads, "dim": dim}, {"gates": (count, 4 * width)}
    if case.name == MLSTM_HEADS:
        heads, qk, v = case.attributes.values()
        shapes = {n: (count, heads * w) for n, w in zip("qkvifo", (qk, qk, v, 1, 1, v), strict=True)}
        return {"positions": count}, shapes
    if case.name in (GEGLU, SWIGLU):
        return {"positions": count, "dim": width // 2, "gelu": case.name == GEGLU}, {"y": (count, width // 2)}
    shapes = dict.fromkeys(case.outputs, t["x"].shape)
    return {"positions": count, "dim": width, "centred": case.name == ADD_LAYER_NORM}, shapes


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
            others = run(kernels, case, dtype, instruction_set, threads=3, in_place=True)
            for output, value in results.items():
                np.testing.assert_array_equal(others[output].view(np.uint32), value.view(np.uint32), err_msg=output)


@pytest.mark.parametrize("name", [CAUSAL_CONV, MLSTM_PROJECTIONS])
def test_padding_is_not_read_and_its_outputs_are_zero(kernels, name):
    for seed in SEEDS:
        case = layer_case(name, seed, lengths=True)
        beyond = torch.arange(case.sequence) >= case.lengths[:, None]
        for tensor in ("x", "x_conv"):  # whole rows
            if tensor in case.tensors:
                case.tensors[tensor][beyond.reshape(-1)] = torch.nan
        for output, value in run(kernels, case, "float32", "", threads=2).items():
            assert np.isfinite(value).all(), output
            assert output == "window_next" or not value[beyond.reshape(-1).numpy()].any()
