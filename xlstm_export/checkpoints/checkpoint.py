"""What reading a checkpoint gives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..checksum import FileHashes, hash_files
from ..errors import printable
from ..modeling.architecture import Architecture
from .files.settings import companions
from .files.tensors import LazyTensor
from .files.text_tokens import TOKENIZER_FILE, TextTokens, read_text_tokens, text_files
from .files.weights import Weights


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was understood: its architecture and its tensors by canonical name.

    Every tensor that the architecture needs is there, with the right shape, and nothing is left over.
    Values are checked (finite) when they are read.
    """

    family: str
    """`xlstm`, `xlstm-large`, `xlstm-hf`, `tirex` or `tirex2`."""
    path: Path
    """What the user named: a file or a folder."""
    files: tuple[Path, ...]
    """The files that hold the weights."""
    architecture: Architecture
    tensors: Mapping[str, LazyTensor]
    config: Mapping[str, object]
    """The family's own configuration as plain values, complete: what its upstream class needs to build the model.

    It builds on any machine (no CUDA or Triton kernels) and for stepping; dropout is off.
    """
    upstream: Mapping[str, LazyTensor] = field(default_factory=dict)
    """The tensors as the upstream class built from `config` loads them: its `state_dict` names and layouts.

    Empty where there is no checkpoint but a configuration only.
    """
    notes: tuple[str, ...] = ()
    """What the user should know about what was read, a sentence each."""
    tokenizer: Path | None = None
    """A Hugging Face `tokenizer.json` beside the weights."""
    text: TextTokens = TextTokens()
    """The tokens that begin and end a text."""
    quantization: Mapping[str, object] | None = None
    """How weights are quantised that are integers in the files, for people; None: none are."""
    companions: tuple[Path, ...] = ()
    """What else was read: the small files beside the weights, or in their place."""

    @classmethod
    def of(
        cls,
        weights: Weights,
        *,
        family: str,
        architecture: Architecture,
        tensors: Mapping[str, LazyTensor],
        config: Mapping[str, object],
        upstream: Mapping[str, LazyTensor],
        notes: tuple[str, ...] = (),
        quantization: Mapping[str, object] | None = None,
    ) -> Checkpoint:
        """What a family's reader has understood of `weights`, to whose notes it adds."""
        folders = _folders(weights.path)
        text = read_text_tokens(folders, architecture.vocab_size)
        return cls(
            family=family,
            path=weights.path,
            files=tuple(dict.fromkeys(weights.files.values())),
            architecture=architecture,
            tensors=tensors,
            config=config,
            upstream=upstream,
            notes=tuple(printable(note) for note in (*weights.notes, *notes, *text.notes)),
            tokenizer=next((path for folder in folders if (path := folder / TOKENIZER_FILE).is_file()), None),
            text=text,
            quantization=quantization,
            companions=(*companions(weights.path), *text_files(folders)),
        )

    def hashes(self) -> FileHashes:
        """Of the weight files; `whole` is what a manifest has. Random weights have no files."""
        return hash_files(self.files)


def _folders(weights: Path) -> list[Path]:
    """Where files lie that belong to the weights: beside them, and above a training run's `checkpoint-500`."""
    folder = weights if weights.is_dir() else weights.parent
    return [folder, folder.absolute().parent] if re.fullmatch(r"checkpoint-\d+", folder.name) else [folder]
