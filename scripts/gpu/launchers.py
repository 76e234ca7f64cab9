"""libxlstm_launchers.so: the launchers of the CUDA kernels, called with addresses."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

TYPES = ("float32", "float16", "bfloat16")  # index: xlstm::DataType


class MlstmArgs(ctypes.Structure):
    """xlstm::MlstmArgs, member by member."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "sequence", "heads", "dim_qk", "dim_v")),
        *((name, ctypes.c_int32) for name in ("type", "memory_type")),
        *((n, ctypes.c_void_p) for n in ("q", "k", "v", "i", "f", "C_in", "n_in", "m_in", "lengths")),
        *((n, ctypes.c_void_p) for n in ("h", "C_out", "n_out", "m_out")),
        *((n, ctypes.c_float) for n in ("q_scale", "k_scale", "gate_soft_cap", "eps")),
    ]


class SlstmArgs(ctypes.Structure):
    """xlstm::SlstmArgs, member by member."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "sequence", "heads", "dim")),
        *((name, ctypes.c_int32) for name in ("type", "recurrent_type")),
        *((n, ctypes.c_void_p) for n in ("x", "R", "b", "y_in", "c_in", "n_in", "m_in", "lengths")),
        *((n, ctypes.c_void_p) for n in ("hidden", "y_out", "c_out", "n_out", "m_out")),
        ("forget_clamp", ctypes.c_float),
    ]


_STATUS, _ADDRESS, _INT, _LONG = ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_MLSTM, _SLSTM = ctypes.POINTER(MlstmArgs), ctypes.POINTER(SlstmArgs)
# Result and arguments as plugins/tests/gpu declares them; a launcher's last argument is the stream.
SIGNATURES: dict[str, tuple[type, list]] = {
    "xlstm_launch_mlstm": (_STATUS, [_MLSTM, _ADDRESS]),
    "xlstm_launch_mlstm_tiled": (_STATUS, [_MLSTM, _INT, _INT, _ADDRESS]),
    "xlstm_launch_mlstm_chunkwise": (_STATUS, [_MLSTM, _INT, _INT, _ADDRESS]),
    "xlstm_launch_slstm": (_STATUS, [_SLSTM, _ADDRESS, _ADDRESS]),
    "xlstm_slstm_workspace_size": (_LONG, [_LONG, _LONG, _LONG]),
    "xlstm_launch_sample": (
        _STATUS,
        [*[_ADDRESS] * 4, _INT, _INT, ctypes.c_double, ctypes.c_uint64, ctypes.c_double, _ADDRESS],
    ),
    "xlstm_sample_scratch_size": (_LONG, [_LONG, _LONG]),
    "xlstm_launch_copy": (_STATUS, [_ADDRESS, _ADDRESS, _LONG, _INT, _ADDRESS]),
    "xlstm_size_of_mlstm_args": (_INT, []),
    "xlstm_size_of_slstm_args": (_INT, []),
}
PLUGIN_SIGNATURES: dict[str, tuple[type, list]] = {
    "xlstm_plugin_of_mlstm": (_ADDRESS, [_MLSTM]),
    "xlstm_plugin_of_slstm": (_ADDRESS, [_SLSTM, _ADDRESS]),
    "xlstm_call_plugin": (_STATUS, [_ADDRESS, _ADDRESS]),
}


def load(library: Path, signatures: dict[str, tuple[type, list]]) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(library))
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


class LaunchError(RuntimeError):
    """A launcher returned another cudaError_t than 0."""

    def __init__(self, function: str, status: int):
        super().__init__(f"{function} returned cudaError_t {status}")
        self.refused = status == 1  # cudaErrorInvalidValue


class Launchers:
    """The loaded library's `functions`. `stream`: gives the address of the stream that a launch goes to."""

    def __init__(self, folder: Path, stream: Callable[[], int]):
        self.functions = load(folder / "lib" / "libxlstm_launchers.so", SIGNATURES)
        sizes = (self.functions.xlstm_size_of_mlstm_args(), self.functions.xlstm_size_of_slstm_args())
        if sizes != (ctypes.sizeof(MlstmArgs), ctypes.sizeof(SlstmArgs)):
            raise RuntimeError("plugins/cells/cells.h and scripts/gpu/launchers.py differ")
        self._stream = stream

    def launch(self, function: str, *arguments: object) -> Callable[[], None]:
        """What calls a launcher with these arguments, and raises `LaunchError` where it does not return 0."""
        call = getattr(self.functions, function)

        def run() -> None:
            if status := call(*arguments, self._stream()):
                raise LaunchError(function, status)

        return run


def mlstm_numbers(dim_qk: int) -> dict[str, float]:
    """The cell's numbers, as xLSTM-7B has them."""
    return {"q_scale": dim_qk**-0.5, "k_scale": 1.0, "gate_soft_cap": 15.0, "eps": 1e-6}


def mlstm_args(shape: tuple[int, int, int], tokens: tuple[int, ...], tensors: dict, **values: float) -> MlstmArgs:
    """Arguments with the addresses of `tensors`, by the struct's names.

    Args:
        shape: H, DK, DV.
        tokens: (B) for one position, or (B, S).
        tensors: q, k, v, i, f, h and the states, `C_in` to `m_out`. They live as long as the arguments.
        values: of the struct's numbers, other than xLSTM-7B has them.
    """
    args = MlstmArgs(tokens[0], (*tokens, 1)[1], *shape, type_of(tensors["q"]), type_of(tensors["C_in"]))
    return _filled(args, tensors, mlstm_numbers(shape[1]) | values)


def slstm_args(shape: tuple[int, int], tokens: tuple[int, ...], tensors: dict, **values: float) -> SlstmArgs:
    """The same for the sLSTM. `shape`: H, DH. `tensors`: x, R, b, hidden and the states."""
    args = SlstmArgs(tokens[0], (*tokens, 1)[1], *shape, type_of(tensors["x"]), type_of(tensors["R"]))
    return _filled(args, tensors, values)


def _filled(args, tensors: dict, numbers: dict[str, float]):
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise ValueError(f"{name} is not contiguous")
        setattr(args, name, tensor.data_ptr())
    for name, value in numbers.items():
        setattr(args, name, value)
    args.keeps = tensors
    return args


def in_place(tensors: dict, states: str) -> dict:
    """The same tensors, the outputs of these states in the buffers of their inputs."""
    return tensors | {f"{state}_out": tensors[f"{state}_in"] for state in states}


def type_of(tensor) -> int:
    """Its xlstm::DataType."""
    return TYPES.index(str(tensor.dtype).removeprefix("torch."))
