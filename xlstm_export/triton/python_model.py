"""The model of Triton's Python back end: a bundle in this package's runtime, its sequences sharing passes.

Imported by the `model.py` of a model repository, in the process that Triton starts for it (there alone is
`triton_python_backend_utils`). A request is answered when its sequence has got so far, not in the order of requests:
`execute` hands it on and returns at once, and the answer goes through the request's response sender.

A request holds, all optional: `tokens` or `text` to read; with the sequence's start `restore`, a saved state to go on
from; and the parameters `max_new_tokens`, `temperature`, `top_k`, `top_p`, `seed`, `ignore_eos` to draw tokens, which
are read as well. Outputs: `logits` after all that was read, `new_tokens`, `new_text`, and `state`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from ..bundle import Bundle
from ..errors import ErrorKind, UserError
from ..native.locate import ONNXRUNTIME_LIBRARY
from ..runtime import open_session
from ..runtime.sampling import Sampling
from ..runtime.tokenizers import open_tokenizer
from ..serving import Batcher, BatcherThread
from .conversations import Answer, Ask, Conversations
from .layouts import BUNDLE

_CODES = {ErrorKind.argument: "INVALID_ARG", ErrorKind.state: "INVALID_ARG", ErrorKind.unavailable: "UNAVAILABLE"}
"""Of `TritonError`."""


class TritonPythonModel:
    """What Triton looks for in `model.py`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle; called once."""
        _require_fitting_numpy()
        config = json.loads(args["model_config"])
        sequences = config["sequence_batching"]["oldest"]["max_candidate_sequences"]
        # What Triton has ended is not announced: it is the silence that both go by, and Triton's clock starts earlier.
        idle = config["sequence_batching"]["max_sequence_idle_microseconds"] / 1e6 + 1
        folder = Path(args["model_repository"], args["model_version"])
        bundle = Bundle.open(folder / BUNDLE)
        library = folder / ONNXRUNTIME_LIBRARY
        session = open_session(bundle, batch=sequences, custom_ops=library if library.is_file() else None)
        self._batcher = BatcherThread(Batcher(session, queue=sequences))
        manifest = bundle.manifest
        tokenizer = None if manifest.tokenizer is None else open_tokenizer(bundle)
        self._conversations = Conversations(
            self._batcher.batcher, tokenizer, manifest.bos_token_id, manifest.eos_token_ids, idle
        )
        # A sequence that Triton has ended may be at work here still, so there are at most as many of these as of those
        # that Triton knows: where more requests come, they wait with Triton.
        self._under_way = threading.Semaphore(sequences)
        self._clerk = threading.Thread(target=self._conversations.run, name="clerk", daemon=True)
        self._clerk.start()

    def execute(self, requests: list[Any]) -> None:
        """Hand requests on."""
        for request in requests:
            self._under_way.acquire()
            sender = request.get_response_sender()
            try:
                self._conversations.ask(_read(request, sender, self._under_way.release))
            except UserError as error:
                _send(sender, error, set(), self._under_way.release)

    def finalize(self) -> None:
        """The model is unloaded."""
        self._batcher.close()
        self._conversations.close()
        self._clerk.join()


def _require_fitting_numpy() -> None:
    """Refuse a NumPy that this server was not built for: its arrays would hold their first number throughout."""
    if int(np.__version__.partition(".")[0]) < 2:
        return
    numbers = np.arange(6).reshape(2, 3)
    handed_over = triton.Tensor.from_dlpack("numbers", numbers).as_numpy()  # an array that the server makes
    if not np.array_equal(handed_over, numbers):
        raise RuntimeError(
            f"This Triton's Python back end does not understand NumPy {np.__version__}: it was built for NumPy 1. "
            "Install 'numpy<2' where the model runs, or use a newer Triton."
        )


def _read(request: Any, sender: Any, release: Callable[[], None]) -> Ask:
    """A request of Triton's, copied: its memory is Triton's again when `execute` returns.

    Raises:
        UserError: parameters that are unknown or out of range.
    """
    flags, wanted = request.flags(), set(request.requested_output_names())
    tokens, text, state = (_input(request, name) for name in ("tokens", "text", "restore"))
    parameters = _Parameters(json.loads(request.parameters() or "{}"))
    ask = Ask(
        name=request.correlation_id(),
        start=bool(flags & triton.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START),
        end=bool(flags & triton.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END),
        tokens=None if tokens is None else tokens.tolist(),
        text=None if text is None else text.reshape(-1)[0].decode("utf-8", "replace"),
        restore=None if state is None else state.tobytes(),
        new_tokens=parameters.take("max_new_tokens", int, 0),
        sampling=Sampling(
            parameters.take("temperature", float, Sampling.temperature),
            parameters.take("top_k", int, Sampling.top_k),
            parameters.take("top_p", float, Sampling.top_p),
            parameters.take("seed", int, Sampling.seed),
        ),
        ignore_eos=parameters.take("ignore_eos", bool, False),
        wants_state="state" in wanted,
        is_cancelled=sender.is_cancelled,
        answer=lambda answer: _send(sender, answer, wanted, release),
    )
    parameters.require_empty()
    return ask


def _input(request: Any, name: str) -> np.ndarray | None:
    tensor = triton.get_input_tensor_by_name(request, name)
    return None if tensor is None else np.array(tensor.as_numpy())


class _Parameters:
    """The parameters of a request, one taken after the other."""

    def __init__(self, given: dict[str, Any]):
        self._given = {name: value for name, value in given.items() if not name.startswith("triton_")}

    def take(self, name: str, kind: type, otherwise: Any) -> Any:
        """One of them, as a number or truth value; texts of these will do: not every client sends fractions."""
        value = self._given.pop(name, otherwise)
        try:
            value = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            pass
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = isinstance(value, bool) if kind is bool else is_number and (kind is float or float(value).is_integer())
        if not fits or (name == "max_new_tokens" and value < 0):
            raise UserError(ErrorKind.argument, f"{name} is {value!r}: give {_GIVE[kind]}.")
        return kind(value)

    def require_empty(self) -> None:
        """All were taken."""
        if self._given:
            raise UserError(ErrorKind.argument, f"There is no parameter {min(self._given)!r}.")


_GIVE = {bool: "true or false", int: "a whole number", float: "a number"}


def _send(sender: Any, answer: Answer | UserError, wanted: set[str], release: Callable[[], None]) -> None:
    try:
        sender.send(_response(answer, wanted), flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except Exception as error:  # whoever asked is gone, and is no concern of the others
        triton.Logger.log_warn(f"an answer could not be sent: {error}")
    finally:
        release()


def _response(answer: Answer | UserError, wanted: set[str]) -> Any:
    if isinstance(answer, UserError):
        code = getattr(triton.TritonError, _CODES.get(answer.kind, "INTERNAL"))
        return triton.InferenceResponse(output_tensors=[], error=triton.TritonError(str(answer), code))
    outputs = {
        "new_tokens": np.array(answer.new_tokens, np.int64),
        "new_text": np.array([answer.new_text.encode("utf-8")], np.object_),
    }
    if answer.logits is not None:
        outputs["logits"] = answer.logits
    if answer.state is not None:
        outputs["state"] = np.frombuffer(answer.state, np.uint8)
    return triton.InferenceResponse([triton.Tensor(name, outputs[name]) for name in outputs if name in wanted])
