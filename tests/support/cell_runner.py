"""Drives `cell_runner`, the program that runs the CUDA launchers on cases: on a CPU under sanitizers, or on a GPU."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from support import cell_reference

# The kernels' sources in plugins/cells/cuda, in the order of cell_runner.cc.
KERNEL_FILES = [
    "mlstm_step.cuh",
    "mlstm_chunkwise.cuh",
    "mlstm_tensor.cuh",
    "mlstm_sequence_normaliser.cuh",
    "slstm_step.cuh",
    "slstm_sequence.cuh",
    "slstm_cluster.cuh",
    "slstm_batch.cuh",
]
TYPES = ["float32", "float16", "bfloat16"]  # index: xlstm::DataType
ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_ATTRIBUTES = {"mlstm": ["q_scale", "k_scale", "gate_soft_cap", "eps"], "slstm": ["forget_clamp"]}
_INPUTS = {"mlstm": ["q", "k", "v", "i", "f", "C", "n", "m"], "slstm": ["x", "R", "b", "y", "c", "n", "m"]}
_ACTIVATIONS = {"q", "k", "v", "i", "f", "x"}


class RunnerDied(AssertionError):
    """The program ended: a sanitizer or the simulator found an error. The message holds what it printed."""


@dataclass
class Case:
    """One call of a launcher. `inputs` are float arrays of any precision; they are rounded to their types here."""

    cell: str  # "mlstm" or "slstm"
    dtype: str
    inputs: dict[str, np.ndarray]
    attributes: dict[str, float]
    recurrent: str = "float32"
    memory: str = "float32"  # the type that C is stored as
    in_place: int = 0  # bit k: the k-th state is updated in place
    misalign: bool = False
    tile: tuple[int, int] = (0, 0)  # of the mLSTM step kernel, for a sequence too
    chunk: tuple[int, int] = (0, 0)  # of the mLSTM chunkwise kernel
    no_workspace: bool = False
    capture: bool = False
    schedule: int = 0
    broken_file: str = KERNEL_FILES[0]
    broken_barrier: int = 0
    multiprocessors: int = 0  # of the simulated device, with shared_limit bytes for a block
    shared_limit: int = 0
    resident_blocks: int = 0  # that a cooperative launch may have
    clusters: bool = True  # of thread blocks: whether the simulated device has them
    choose: bool = False  # launch nothing, answer with the chosen chunk: 1 + length * 3 + columns in place of a status
    sent: dict[str, np.ndarray] = field(init=False)  # what the kernel reads, as float32 or int32

    def __post_init__(self):
        self.sent = {name: round_to(array, self.type_of(name)) for name, array in self.inputs.items()}

    def type_of(self, name: str) -> str:
        if name == "lengths":
            return "int32"
        if name in _ACTIVATIONS:
            return self.dtype
        return {"R": self.recurrent, "C": self.memory}.get(name, "float32")

    def expected(self, tensor_cores: bool = False) -> list[cell_reference.Expected]:
        """`tensor_cores`: the kernel uses them."""
        options = {"memory": self.memory} if self.cell == "mlstm" else {"recurrent": self.recurrent}
        return getattr(cell_reference, self.cell)(self.sent, self.attributes, self.dtype, tensor_cores, **options)

    def encode(self) -> bytes:
        first = self.inputs["q" if self.cell == "mlstm" else "x"]
        batch, sequence = first.shape[:2]
        heads, dim = first.shape[-2:]
        dim_v = self.inputs["v"].shape[-1] if self.cell == "mlstm" else 0
        numbers = [
            ["mlstm", "slstm"].index(self.cell),
            TYPES.index(self.dtype),
            TYPES.index(self.recurrent),
            TYPES.index(self.memory),
            batch,
            sequence,
            heads,
            dim,
            dim_v,
            self.in_place,
            "lengths" in self.inputs,
            self.misalign,
            *self.tile,
            *self.chunk,
            self.no_workspace,
            self.capture,
            self.schedule,
            KERNEL_FILES.index(self.broken_file),
            self.broken_barrier,
            self.multiprocessors,
            self.shared_limit,
            self.resident_blocks,
            not self.clusters,
            self.choose,
        ]
        floats = [self.attributes[name] for name in _ATTRIBUTES[self.cell]]
        parts = [struct.pack(f"{len(numbers)}q4f", *(int(n) for n in numbers), *floats, *[0.0] * (4 - len(floats)))]
        names = _INPUTS[self.cell] + ["lengths"] * ("lengths" in self.inputs)
        parts += [to_bytes(self.sent[name], self.type_of(name)) for name in names]
        return b"".join(parts)


def round_to(array: np.ndarray, dtype: str) -> np.ndarray:
    """`array` rounded to `dtype`, as float32 (int32 stays int32)."""
    if dtype == "int32":
        return np.ascontiguousarray(array, dtype=np.int32)
    values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    return values.to(getattr(torch, dtype)).to(torch.float32).numpy()


def to_bytes(array: np.ndarray, dtype: str) -> bytes:
    if dtype == "bfloat16":
        return torch.from_numpy(array).to(torch.bfloat16).view(torch.int16).numpy().tobytes()
    return array.astype(dtype).tobytes()


def from_bytes(data: bytes, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        bits = torch.from_numpy(np.frombuffer(data, np.int16).copy())
        return bits.view(torch.bfloat16).to(torch.float32).numpy().reshape(shape)
    return np.frombuffer(data, dtype).astype(np.float32).reshape(shape)


class CellRunner:
    """A running `cell_runner`; started again after it died. Use as a context manager."""

    def __init__(self, program: Path, tensor_cores: bool = True, embedded: bool = False):
        self._program = program
        self._tensor_cores = tensor_cores  # whether the device has them, for bfloat16
        self._embedded = embedded  # in TensorRT's plugin or ONNX Runtime's operator, where the launcher chooses
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> CellRunner:
        return self

    def __exit__(self, *_):
        if self._process:
            self._process.kill()
            self._process.wait()

    def run(self, case: Case) -> tuple[int, list[np.ndarray]]:
        """The launcher's cudaError_t and, if that is 0, the outputs in the order of `case.expected()`."""
        if self._process is None or self._process.poll() is not None:
            self._errors = tempfile.TemporaryFile()
            self._process = subprocess.Popen(
                [self._program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
        try:
            self._process.stdin.write(case.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            self._died()
        (status,) = struct.unpack("q", self._read(8))
        if status:
            return status, []
        outputs = []
        for name, shape in self._output_shapes(case):
            dtype = case.dtype if name in ("h", "hidden") else case.type_of(name)
            size = int(np.prod(shape)) * (4 if dtype == "float32" else 2)
            outputs.append(from_bytes(self._read(size), shape, dtype))
        (input_written,) = struct.unpack("q", self._read(8))
        assert not input_written, "the kernel wrote to an input that is not updated in place"
        return 0, outputs

    def check(self, case: Case) -> None:
        """Runs the case and holds every output against float64."""
        status, outputs = self.run(case)
        assert status == 0, f"launch failed with cudaError_t {status}"
        if case.cell == "mlstm":
            chunkwise = case.inputs["q"].shape[1] > 1 and (self._embedded or case.tile == (0, 0))
            wanted = case.expected(chunkwise and self._tensor_cores and case.dtype != "float32")
        else:
            batch, sequence = case.inputs["x"].shape[:2]
            wanted = case.expected(self._tensor_cores and (sequence > 1 or batch > 16))
        problems = [expected.check(actual) for expected, actual in zip(wanted, outputs, strict=True)]
        problems = [problem for problem in problems if problem]
        assert not problems, "; ".join(problems)

    @staticmethod
    def _output_shapes(case: Case) -> list[tuple[str, tuple[int, ...]]]:
        if case.cell == "mlstm":
            return [("h", case.inputs["v"].shape)] + [(name, case.inputs[name].shape) for name in "Cnm"]
        batch, sequence, _, heads, dim = case.inputs["x"].shape
        return [("hidden", (batch, sequence, heads, dim))] + [(name, case.inputs[name].shape) for name in "ycnm"]

    def _read(self, size: int) -> bytes:
        data = self._process.stdout.read(size)
        if len(data) != size:
            self._died()
        return data

    def _died(self):
        self._process.wait()
        self._errors.seek(0)
        raise RunnerDied(
            f"exit code {self._process.returncode}: {self._errors.read().decode(errors='replace')[-4000:]}"
        )
