"""What is not read, and is refused by name: other files, other models, other models that call themselves xLSTM."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import ErrorKind, UserError
from .families import FAMILIES

_SUPPORTED = f"Supported are {', '.join(family.models for family in FAMILIES)}."
_SAVE_AS = "Give a checkpoint: a safetensors file, a file of torch.save, or a folder that holds one."

_SUFFIXES = {
    ".onnx": f"is an ONNX model already. {_SAVE_AS}",
    ".engine": f"is a TensorRT engine. {_SAVE_AS}",
    ".plan": f"is a TensorRT engine. {_SAVE_AS}",
    ".gguf": f"is a GGUF file. {_SAVE_AS}",
    ".msgpack": f"is a Flax checkpoint. Convert it to safetensors with xlstm-jax first. {_SAVE_AS}",
}
_MAGIC = {
    b"GGUF": f"is a GGUF file. {_SAVE_AS}",
    b"\x89HDF\r\n": f"is an HDF5 file. {_SAVE_AS}",
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself. Fetch the file: git lfs pull.",
    b"<!DOCTYPE": "is a web page, not a checkpoint. Download the file itself.",
    b"<html": "is a web page, not a checkpoint. Download the file itself.",
}
_JAX_FILES = ("_CHECKPOINT_METADATA", "_METADATA", "orbax.checkpoint", "manifest.ocdbt")


def refuse_file(path: Path) -> None:
    """Raise `UserError` for a file that is known to be something else than PyTorch weights."""
    if not path.is_file():
        raise UserError(ErrorKind.checkpoint, f"{path} is neither a file nor a folder.")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(ErrorKind.checkpoint, f"{path} cannot be read: {error.strerror}.") from None
    if not start:
        raise UserError(ErrorKind.checkpoint, f"{path} is empty. Copy or save it again.")
    for magic, message in _MAGIC.items():
        if start.startswith(magic):
            raise UserError(ErrorKind.checkpoint, f"{path} {message}")
    if path.suffix.lower() in _SUFFIXES:
        raise UserError(ErrorKind.checkpoint, f"{path} {_SUFFIXES[path.suffix.lower()]}")


def is_safetensors(path: Path) -> bool:
    """Whether the content is that of a safetensors file, whatever its name: a header's length, then JSON."""
    with path.open("rb") as file:
        start = file.read(10)
    return path.suffix == ".safetensors" or (len(start) == 10 and start[8:9] == b"{" and start[5:8] == b"\0\0\0")


def refuse_folder(path: Path) -> None:
    """Raise `UserError` for a folder in another framework's or library's format."""
    if any(any(path.glob(f"{depth}{name}")) for depth in ("", "*/", "*/*/") for name in _JAX_FILES):
        raise UserError(
            ErrorKind.checkpoint,
            f"{path} is a JAX (Orbax) checkpoint, as xlstm-jax writes it. Convert it with xlstm-jax's own converter to "
            "a safetensors checkpoint (plain or huggingface) and give that.",
        )
    if (path / "manifest.json").is_file() and (path / "model.onnx").is_file():
        raise UserError(ErrorKind.checkpoint, f"{path} is an exported bundle already. {_SAVE_AS}")
    if (path / ".metadata").is_file() and any(path.glob("*.distcp")):
        raise UserError(
            ErrorKind.checkpoint,
            f"{path} is a distributed checkpoint. Convert it: "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER ckpt.pt",
        )
    if (path / "adapter_config.json").is_file():
        raise UserError(
            ErrorKind.checkpoint,
            f"{path} holds an adapter (LoRA), not a model. Merge it into its base model and save that.",
        )


def refuse_architecture(path: Path, values: Mapping[str, object]) -> None:
    """Raise `UserError` for a Hugging Face configuration in which no xLSTM model was found."""
    if "architectures" in values and "model_type" in values:
        kind = values["model_type"]
        raise UserError(
            ErrorKind.checkpoint, f"{path} describes a model of type {kind!r}, which is no xLSTM. {_SUPPORTED}"
        )


_MODELS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (r"(patch_embed\.|rowwise_from_)",),
        f"{{path}} is Vision-LSTM, which runs over images in both directions: it has no step mode. {_SUPPORTED}",
    ),
    (
        (r"exp_(input|forget)_gates\.",),
        f"{{path}} is of PyxLSTM, whose cells have equations of their own. {_SUPPORTED}",
    ),
    (
        (r"blocks_\d+\.",),
        "{example} has the names of xlstm-jax. Convert it with xlstm-jax's own converter to a safetensors checkpoint "
        "(plain or huggingface) and give that.",
    ),
    (
        (r"(?i)[ms]?lstm",),
        "{example} has LSTM cells, but not those of a supported model: cells of other implementations differ in their "
        f"equations even where they are called xLSTM. {_SUPPORTED}",
    ),
    ((), f"{{example}} is no xLSTM model. {_SUPPORTED}"),
)
"""Regular expressions, each found in the name of some tensor, and what such a checkpoint is; the first row decides."""


def unknown_tensors(path: Path, tensor_names: Iterable[str]) -> UserError:
    """The error for tensors of no supported family, naming the model where it is known."""
    names = list(tensor_names)
    if not names:
        return UserError(ErrorKind.checkpoint, f"{path} holds no tensors. {_SAVE_AS}")
    message = next(
        message
        for patterns, message in _MODELS
        if all(any(re.search(pattern, name) for name in names) for pattern in patterns)
    )
    example = f"{path} (tensor {names[0]}, ...)"
    return UserError(ErrorKind.checkpoint, message.format(path=path, example=example))
