"""Triton's rules for implicit state, replayed over ONNX Runtime: what that back end of a server makes of a model.

Written after the sources in github.com/triton-inference-server; the places are named. No server with this back end has
run here: what holds is that our files keep to these rules, as far as they are read rightly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

NUMPY = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16, "TYPE_INT64": np.int64, "TYPE_INT32": np.int32}
ONNX = {"tensor(float)": "TYPE_FP32", "tensor(float16)": "TYPE_FP16", "tensor(int64)": "TYPE_INT64"} | {
    "tensor(int32)": "TYPE_INT32"
}


def read_config(model: Path) -> model_config_pb2.ModelConfig:
    """`config.pbtxt`, by Triton's own protocol buffers."""
    return text_format.Parse((model / "config.pbtxt").read_text("utf-8"), model_config_pb2.ModelConfig())


def kind(tensor: object) -> str:
    """`TYPE_FP32`."""
    return model_config_pb2.DataType.Name(tensor.data_type)


@dataclass(frozen=True)
class Request:
    """One request of a sequence: inputs with the batch of 1 in front, as a client sends them."""

    sequence: int
    inputs: Mapping[str, np.ndarray]
    start: bool = False
    end: bool = False


class Server:
    """One instance of a model of the back end `onnxruntime`, with a sequence batcher."""

    def __init__(self, model: Path):
        self.config = read_config(model)
        assert self.config.backend == "onnxruntime"
        self._batched = self.config.max_batch_size > 0
        self._states = {state.output_name: state for state in self.config.sequence_batching.state}
        self._session = onnxruntime.InferenceSession(model / "1" / "model.onnx", providers=["CPUExecutionProvider"])
        self._memory: dict[int, dict[str, np.ndarray]] = {}
        self._check()

    def _check(self) -> None:
        """onnxruntime_backend, `ModelInstanceState`, `ValidateInputs` and `ValidateOutputs` in onnxruntime.cc."""
        taken = {value.name: value for value in self._session.get_inputs()}
        given = {value.name: value for value in self._session.get_outputs()}
        states = self._states.values()
        assert len(taken) == len(self.config.input) + len(states)
        for tensor in self.config.input:
            dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
            self._compare(taken[tensor.name], kind(tensor), dims, exact=False)
        for tensor in self.config.output:
            self._compare(given[tensor.name], kind(tensor), tensor.dims, exact=True)
        for state in states:
            self._compare(taken[state.input_name], kind(state), state.dims, exact=True)
            self._compare(given[state.output_name], kind(state), state.dims, exact=True)
        strategy = self.config.sequence_batching
        if states:  # core, `ValidateModelConfig`, `GenerateInitialStateData`
            assert strategy.HasField("oldest") and strategy.max_sequence_idle_microseconds > 0
        for state in states:
            for initial in state.initial_state:
                assert initial.name and initial.data_type == state.data_type and initial.dims == state.dims
            assert state.dims and min(state.dims) > 0

    def _compare(self, value: onnxruntime.NodeArg, dtype: str, dims: Sequence[int], exact: bool) -> None:
        """`CompareDimsSupported` in onnxruntime_utils.cc: symbolic dimensions are -1."""
        assert ONNX[value.type] == dtype, value
        found = [size if isinstance(size, int) else -1 for size in value.shape]
        said = [-1, *dims] if self._batched else list(dims)
        assert not self._batched or found[0] == -1, value
        assert len(found) == len(said), (value, said)
        assert all(a == b or (a == -1 and not exact) for a, b in zip(found, said, strict=True)), (value, said)

    def execute(self, requests: Sequence[Request]) -> list[dict[str, np.ndarray]]:
        """One pass over requests of different sequences, as the batcher would hand them over together."""
        assert len({request.sequence for request in requests}) == len(requests) <= max(self.config.max_batch_size, 1)
        for request in requests:
            assert request.start or request.sequence in self._memory, "must specify the START flag"
            if request.start:
                self._memory[request.sequence] = self._first_memory()
        inputs = {tensor.name: self._gather(tensor, requests) for tensor in self.config.input}
        memories = [self._memory[request.sequence] for request in requests]
        for state in self._states.values():
            inputs[state.input_name] = np.concatenate([memory[state.input_name] for memory in memories])
        outputs = dict(zip((v.name for v in self._session.get_outputs()), self._session.run(None, inputs), strict=True))
        for row, (request, memory) in enumerate(zip(requests, memories, strict=True)):
            self._update(memory, {name: self._split(outputs[name], row) for name in self._states})
            if request.end:
                del self._memory[request.sequence]
        return [{o.name: self._split(outputs[o.name], row) for o in self.config.output} for row in range(len(requests))]

    def _first_memory(self) -> dict[str, np.ndarray]:
        """core, `SequenceStates::Initialize`: zeros where that is said, memory as it was found elsewhere."""
        memory = {}
        for state in self._states.values():
            shape = ([1] if self._batched else []) + [max(size, 1) for size in state.dims]
            zeros = len(state.initial_state) == 1 and state.initial_state[0].zero_data
            memory[state.input_name] = np.full(shape, 0 if zeros else np.nan, NUMPY[kind(state)])
        return memory

    def _update(self, memory: dict[str, np.ndarray], following: Mapping[str, np.ndarray]) -> None:
        """core, `SequenceStates::OutputState`: the n-th output of one map becomes the n-th input of the other."""
        for source, target in zip(sorted(following, key=str.encode), sorted(memory, key=str.encode), strict=True):
            memory[target] = following[source]

    def _gather(self, tensor: object, requests: Sequence[Request]) -> np.ndarray:
        """core, `InferenceRequest::Normalize`, and `RequiredEqualInputs` for the shapes of a batch."""
        arrays = [request.inputs[tensor.name] for request in requests]
        assert len({array.shape for array in arrays}) == 1, "the batcher makes passes of equal shapes only"
        for array in arrays:
            assert array.dtype == NUMPY[kind(tensor)]
            shape = array.shape[1:] if self._batched else array.shape
            assert len(shape) == len(tensor.dims)
            assert all(said in (-1, size) for said, size in zip(tensor.dims, shape, strict=True))
        together = np.concatenate(arrays)
        return together.reshape(len(together), *tensor.reshape.shape) if tensor.HasField("reshape") else together

    def _split(self, array: np.ndarray, row: int) -> np.ndarray:
        return array[row : row + 1] if self._batched else array
