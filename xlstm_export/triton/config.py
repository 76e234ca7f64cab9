"""What `config.pbtxt` says for Triton's ONNX Runtime and TensorRT back ends: sequences with implicit state.

Triton keeps the states of every sequence and hands them to the model as inputs. Its rules are those of the sources, in
github.com/triton-inference-server; the repository, file and function stand where a rule is kept to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ..bundle.manifest import Dimension, StateTensor, TensorSpec
from .pbtxt import Word

Backend = Literal["onnxruntime", "tensorrt", "python"]

IDLE_SECONDS = 60
"""A sequence that sends nothing for so long is ended. One second where a configuration does not say
(core, `NormalizeModelConfig` in model_config_utils.cc)."""

_TYPES = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "int64": "INT64", "int32": "INT32"}


@dataclass(frozen=True)
class Interface:
    """The tensors of the file that Triton runs."""

    inputs: tuple[TensorSpec, ...]
    """`lengths` among them."""
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateTensor, ...]


def pairs_in_order(states: tuple[StateTensor, ...]) -> bool:
    """Whether Triton hands every state's next value back as that state.

    It does not go by the configuration there: the n-th of the output names in their order is the next value of the n-th
    of the input names (core, `SequenceStates::OutputState` in sequence_state.cc: two `std::map`, ordered by bytes).
    """
    by_input, by_output = (
        sorted(states, key=lambda state: name(state).encode())
        for name in (lambda state: state.input, lambda state: state.output)
    )
    return by_input == by_output


def paired(state: StateTensor) -> StateTensor:
    """The state with another name for its next value: one beginning for all outputs keeps them in the inputs' order."""
    return replace(state, output=f"next.{state.input}")


def model_config(
    name: str, backend: Backend, interface: Interface, sequences: int, max_batch: int | None
) -> dict[str, Any]:
    """The configuration of a model whose states Triton keeps.

    Args:
        sequences: the most at a time; others wait until one ends.
        max_batch: the most sequences of one pass. None: the batch of the file is fixed; Triton's own batching is off
            then, every request has the file's whole batch, and a sequence has as many rows.
    """
    batched = max_batch is not None
    config: dict[str, Any] = {
        "name": name,
        "backend": backend,
        "max_batch_size": max_batch or 0,
        "input": [_tensor(tensor, batched) for tensor in interface.inputs],
        "output": [_tensor(tensor, batched) for tensor in interface.outputs],
    }
    if interface.states:
        config["sequence_batching"] = sequence_batching(sequences)
        config["sequence_batching"]["state"] = [_state(state, batched) for state in interface.states]
    elif batched:
        config["dynamic_batching"] = {}
    return config | {"instance_group": [{"count": 1}]}


def sequence_batching(sequences: int) -> dict[str, Any]:
    """Sequences, of which those that have a request share a pass. No slot runs empty, so the model need not be told
    which are (core, `OldestSequenceBatch` in sequence_batch_scheduler.cc)."""
    return {
        "max_sequence_idle_microseconds": IDLE_SECONDS * 1_000_000,
        "oldest": {"max_candidate_sequences": sequences},
    }


def python_config(name: str, sequences: int, has_text: bool) -> dict[str, Any]:
    """The configuration of a language model in Triton's Python back end (`python_model` says what each tensor is).

    Without Triton's batching: the model makes its own passes, of whatever is ready.

    Args:
        has_text: whether there is a tokenizer.
    """

    def tensor(name: str, kind: str, dims: list[int], **more: Any) -> dict[str, Any]:
        return {"name": name, "data_type": Word(f"TYPE_{kind}"), "dims": dims, **more}

    texts = [tensor("text", "STRING", [1]), tensor("new_text", "STRING", [1])] if has_text else []
    inputs = [tensor("tokens", "INT64", [-1]), *texts[:1], tensor("restore", "UINT8", [-1])]
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": 0,
        "input": [given | {"optional": True} for given in inputs],
        "output": [
            tensor("logits", "FP32", [-1]),
            tensor("new_tokens", "INT64", [-1]),
            *texts[1:],
            tensor("state", "UINT8", [-1]),
        ],
        "sequence_batching": sequence_batching(sequences),
        "instance_group": [
            {"count": 1, "kind": Word("KIND_CPU")}
        ],  # each would hold a model, and sequences, of its own
    }


def data_type(dtype: str) -> Word:
    """`TYPE_FP32`."""
    return Word(f"TYPE_{_TYPES[dtype]}")


def _dims(shape: tuple[Dimension, ...], batched: bool) -> list[int]:
    """The batch is not among them where Triton batches."""
    return [size if isinstance(size, int) else -1 for size in (shape[1:] if batched else shape)]


def _tensor(tensor: TensorSpec, batched: bool) -> dict[str, Any]:
    described: dict[str, Any] = {"name": tensor.name, "data_type": data_type(tensor.dtype)}
    if dims := _dims(tensor.shape, batched):
        return described | {"dims": dims}
    # One number a row, as `lengths` is: a tensor of no dimensions is said so (core, ValidateIOShape in
    # model_config_utils.cc); a request has it as (1, 1).
    return described | {"dims": [1], "reshape": {"shape": []}}


def _state(state: StateTensor, batched: bool) -> dict[str, Any]:
    described = {"data_type": data_type(state.dtype), "dims": _dims(state.shape, batched)}
    # Without an initial state, a sequence begins with memory as it was found (core, `SequenceStates::Initialize` in
    # sequence_state.cc); the name is asked for and not used (`GenerateInitialStateData`).
    zeros = {**described, "zero_data": True, "name": "zeros"}
    return {"input_name": state.input, "output_name": state.output, **described, "initial_state": [zeros]}
