"""The CPU kernels through `libxlstm_cpu_harness.so`: cases of `cases.py` on a chosen instruction set and pool."""

from __future__ import annotations

import ctypes

import numpy as np

from support.cell_runner import TYPES, Case, from_bytes, to_bytes
from support.native import build_without_cuda

_POINTER, _INT64, _INT32, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


def _fields(text: str, kind: type) -> list[tuple[str, type]]:
    return [(name, kind) for name in text.split()]


class MlstmArgs(ctypes.Structure):
    """xlstm::MlstmArgs of plugins/cells/cells.h."""

    _fields_ = [
        *_fields("batch sequence heads dim_qk dim_v", _INT64),
        *_fields("type memory_type", _INT32),
        *_fields("q k v i f C n m lengths h C_out n_out m_out", _POINTER),
        *_fields("q_scale k_scale gate_soft_cap eps", _FLOAT),
    ]


class SlstmArgs(ctypes.Structure):
    """xlstm::SlstmArgs."""

    _fields_ = [
        *_fields("batch sequence heads dim", _INT64),
        *_fields("type recurrent_type", _INT32),
        *_fields("x R b y c n m lengths hidden y_out c_out n_out m_out", _POINTER),
        ("forget_clamp", _FLOAT),
    ]


class LinearArgs(ctypes.Structure):
    """xlstm::cpu::LinearArgs."""

    _fields_ = [("type", _INT32), *_fields("inputs outputs", _INT64), *_fields("weight bias", _POINTER)]
    _fields_ += [("groups", _INT64)]


STATES = {"mlstm": "Cnm", "slstm": "ycnm"}


class CpuKernels:
    """The library, with one thread pool of each size asked for."""

    def __init__(self):
        folder = build_without_cuda("xlstm_cpu_harness")
        self._library = ctypes.CDLL(str(folder / "lib" / "libxlstm_cpu_harness.so"))
        self._library.xlstm_pool_create.restype = _POINTER
        self._library.xlstm_instruction_sets.restype = ctypes.c_char_p
        self._library.xlstm_force_instruction_set.restype = ctypes.c_bool
        self._library.xlstm_has_quantized_product.restype = ctypes.c_bool
        self._library.xlstm_pack.restype = self._library.xlstm_linear_pack.restype = _POINTER
        self._pools: dict[int, ctypes.c_void_p] = {}

    def instruction_sets(self) -> list[str]:
        return self._library.xlstm_instruction_sets().decode().split()

    def call(self, function: str, arguments: ctypes.Structure, instruction_set: str, threads: int) -> None:
        """A function of the harness, on the best instruction set where none is named."""
        assert self._library.xlstm_force_instruction_set(instruction_set.encode())
        getattr(self._library, function)(ctypes.byref(arguments), self._pool(threads))

    def _pool(self, threads: int) -> ctypes.c_void_p:
        if threads not in self._pools:
            self._pools[threads] = _POINTER(self._library.xlstm_pool_create(_INT64(threads)))
        return self._pools[threads]

    @property
    def has_quantized_product(self) -> bool:
        return self._library.xlstm_has_quantized_product()

    def multiply(self, matrix: ctypes.Structure, dtype: int, x: np.ndarray, y: np.ndarray, threads: int) -> None:
        """Rows of x by a quantised matrix into y, both of the type with that index in `TYPES`."""
        packed = _POINTER(self._library.xlstm_pack(ctypes.byref(matrix)))
        pointers = (_POINTER(x.ctypes.data), _POINTER(y.ctypes.data))
        self._library.xlstm_multiply(packed, _INT32(dtype), _INT64(len(x)), *pointers, self._pool(threads))
        self._library.xlstm_unpack(packed)

    def linear(
        self, weight: np.ndarray, bias: np.ndarray | None, x: np.ndarray, dtype: int, instruction_set: str, threads: int
    ) -> np.ndarray:
        """x Wᵀ + b, all of the type with that index in `TYPES`."""
        assert self._library.xlstm_force_instruction_set(instruction_set.encode())
        outputs, inputs = weight.shape
        layer = LinearArgs(dtype, inputs, outputs, weight.ctypes.data, None if bias is None else bias.ctypes.data, 1)
        packed = _POINTER(self._library.xlstm_linear_pack(ctypes.byref(layer)))
        y = np.full((len(x) + 1, outputs), np.nan, x.dtype)
        pointers = (_POINTER(x.ctypes.data), _POINTER(y.ctypes.data))
        self._library.xlstm_linear(packed, _INT64(len(x)), *pointers, self._pool(threads))
        self._library.xlstm_linear_unpack(packed)
        assert np.isnan(y[-1].astype(np.float32)).all(), "written beyond the last row"
        return y[:-1]

    def run(self, case: Case, instruction_set: str = "", threads: int = 1) -> list[np.ndarray]:
        """Outputs in the order of `case.expected()`, as float32. Bit k of `case.in_place`: the k-th state in place."""
        buffers = {
            name: _aligned(to_bytes(array, case.type_of(name)), case.misalign) for name, array in case.sent.items()
        }
        before = {name: buffer.tobytes() for name, buffer in buffers.items()}
        shapes = _shapes(case)
        output, *states = shapes
        results = {output: _aligned(bytes(shapes[output][1]), case.misalign)}
        for bit, state in enumerate(states):
            in_place = case.in_place >> bit & 1
            results[state] = buffers[state] if in_place else _aligned(bytes(shapes[state][1]), case.misalign)
        pointers = {name: buffer.ctypes.data for name, buffer in buffers.items()}
        pointers |= {output: results[output].ctypes.data}
        pointers |= {f"{state}_out": results[state].ctypes.data for state in states}
        self.call(f"xlstm_{case.cell}", _arguments(case, pointers), instruction_set, threads)
        for bit, name in enumerate(states):
            if not case.in_place >> bit & 1:
                assert buffers[name].tobytes() == before[name], f"{name} was written to"
        return [
            from_bytes(results[name].tobytes(), shape, case.dtype if name == output else case.type_of(name))
            for name, (shape, _) in shapes.items()
        ]


def _shapes(case: Case) -> dict[str, tuple[tuple[int, ...], int]]:
    """Outputs by name: shape and size in bytes."""
    if case.cell == "mlstm":
        name, shape = "h", case.inputs["v"].shape
    else:
        batch, sequence, _, heads, dim = case.inputs["x"].shape
        name, shape = "hidden", (batch, sequence, heads, dim)
    typed = [(name, shape, case.dtype)]
    typed += [(state, case.inputs[state].shape, case.type_of(state)) for state in STATES[case.cell]]
    return {name: (shape, (4 if t == "float32" else 2) * int(np.prod(shape))) for name, shape, t in typed}


def _arguments(case: Case, pointers: dict[str, int]) -> ctypes.Structure:
    type_index = TYPES.index(case.dtype)
    if case.cell == "mlstm":
        batch, sequence, heads, dim = case.inputs["q"].shape
        sizes = dict(batch=batch, sequence=sequence, heads=heads, dim_qk=dim, dim_v=case.inputs["v"].shape[-1])
        types = dict(type=type_index, memory_type=TYPES.index(case.memory))
        return MlstmArgs(**sizes, **types, **pointers, **case.attributes)
    batch, sequence, _, heads, dim = case.inputs["x"].shape
    sizes = dict(batch=batch, sequence=sequence, heads=heads, dim=dim)
    types = dict(type=type_index, recurrent_type=TYPES.index(case.recurrent))
    return SlstmArgs(**sizes, **types, **pointers, **case.attributes)


def _aligned(data: bytes, misalign: bool) -> np.ndarray:
    """The bytes in a buffer that starts at a cache line, or 4 bytes beyond one. Read and written in place."""
    buffer = np.empty(len(data) + 128, np.uint8)
    start = -buffer.ctypes.data % 64 + (4 if misalign else 0)
    view = buffer[start : start + len(data)]
    view[:] = np.frombuffer(data, np.uint8)
    return view
