"""What a checkpoint holds, and what an export would make of it, as plain data. No weight is read."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from ..bundle.manifest import Dtype
from ..checkpoints import ReadOptions, find_models, open_checkpoint
from ..checkpoints.open import NOTHING_SAID
from ..exporter.write import tokenizer_name
from ..modeling.layers import Dtypes
from ..modeling.model import Model
from .dimensions import Dimensions, dimensions_of


@dataclass(frozen=True)
class ExportPlan:
    """What `xlstm-export onnx --dtype` would make of a checkpoint."""

    dtype: str
    weight_bytes: int
    linkable_bytes: int
    """Of these, bytes that --link-weights would refer to instead of writing."""


@dataclass(frozen=True)
class CheckpointInspection:
    path: str
    family: str
    files: tuple[str, ...]
    dtypes: dict[str, int]
    """Parameters by the dtype that they are stored in."""
    tokenizer: str | None
    notes: tuple[str, ...]
    dimensions: Dimensions
    parameters: int
    parameters_by_part: dict[str, int]
    """Embedding, head, norm, and the blocks by kind."""
    state_bytes: int
    """Of one sequence."""
    plans: tuple[ExportPlan, ...]
    kind: Literal["checkpoint"] = "checkpoint"


@dataclass(frozen=True)
class ModelEntry:
    """One of several models in a checkpoint."""

    select: str
    """What `--select` calls it."""
    family: str
    outline: str
    """Its dimensions in words."""
    parameters: int


@dataclass(frozen=True)
class ModelList:
    path: str
    models: tuple[ModelEntry, ...]
    kind: Literal["models"] = "models"


def list_models(path: Path, options: ReadOptions = NOTHING_SAID) -> ModelList | None:
    """The models of a checkpoint that holds several, of which none is selected; None where one is meant.

    Raises:
        UserError: the checkpoint's files are not understood.
    """
    models = find_models(path) if options.select is None else []
    if len(models) < 2:
        return None
    entries = []
    for model in models:
        parameters = sum(tensor.numel for tensor in model.weights.tensors.values())
        entries.append(ModelEntry(model.name, model.family.name, model.family.outline(model.weights), parameters))
    return ModelList(str(path), tuple(entries))


def inspect_checkpoint(path: Path, options: ReadOptions = NOTHING_SAID) -> CheckpointInspection:
    """Read a checkpoint's headers and configuration.

    Raises:
        UserError: the checkpoint is not understood.
    """
    checkpoint = open_checkpoint(path, options)
    architecture = checkpoint.architecture
    parts: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    for name, tensor in checkpoint.tensors.items():
        count = math.prod(tensor.shape)
        first, *rest = name.split(".")
        parts[f"{architecture.blocks[int(rest[0])].kind} blocks" if first == "blocks" else first] += count
    for tensor in checkpoint.upstream.values():
        stored[str(tensor.dtype).removeprefix("torch.")] += math.prod(tensor.shape)
    plans = []
    for dtype in get_args(Dtype):
        with torch.device("meta"):
            model = Model(architecture, Dtypes(weights=getattr(torch, dtype)))
        parameters = dict(model.named_parameters())
        linkable = sum(
            parameters[name].nbytes
            for name, tensor in checkpoint.tensors.items()
            if tensor.extent is not None and tensor.dtype == parameters[name].dtype
        )
        plans.append(ExportPlan(dtype, sum(p.nbytes for p in parameters.values()), linkable))
    return CheckpointInspection(
        path=str(path),
        family=checkpoint.family,
        files=tuple(file.name for file in checkpoint.files),
        dtypes=dict(stored.most_common()),
        tokenizer=tokenizer_name(checkpoint),
        notes=checkpoint.notes,
        dimensions=dimensions_of(architecture.to_dict(), str(path)),
        parameters=sum(parts.values()),
        parameters_by_part=dict(parts.most_common()),
        state_bytes=4 * sum(math.prod(state.shape) for state in model.states),
        plans=tuple(plans),
    )
