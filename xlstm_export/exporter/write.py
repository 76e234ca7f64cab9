"""Checkpoint → bundle: `model.onnx`, its weights and `manifest.json`, written whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx_ir as ir
import torch

from ..bundle import Bundle, Manifest, StateTensor, TensorSpec
from ..bundle.destination import check_destination, new_folder
from ..bundle.manifest import (
    BYTE_TOKENIZER,
    FILE_NAME,
    METADATA_KEY,
    MODEL_FILE,
    Dimension,
    Dtype,
    LogitsOf,
    Mode,
    Source,
)
from ..bundle.receipt import write_receipt
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.families import forecast_of
from ..checkpoints.files.tensors import LazyTensor
from ..checkpoints.files.text_tokens import TOKENIZER_FILE
from ..errors import ErrorKind, UserError
from ..modeling.model import Model
from ..operators.names import Definitions
from ..operators.schemas import use_definitions
from ..progress import Advance, Stage, no_progress
from ..version import __version__
from .in_place import mark_in_place
from .linear_layers import join_linear_layers
from .memories import store_memories
from .trace import input_name, output_name, trace_model
from .weights import attach_weights

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BYTE_VOCABULARY = 256


@dataclass(frozen=True)
class ExportOptions:
    """How a bundle shall be."""

    dtype: Dtype = "float32"
    """Of the projections' weights and activations; cells and norms are float32 in any case."""
    batch: int | None = None
    """A fixed batch size; None: any."""
    mode: Mode = "both"
    """`step`: one position a pass; `prefill`, `both`: any number, by the same graph. What differs is what engines are
    tuned for: chunks of a prompt, or those and single steps."""
    logits: LogitsOf = "last"
    """`all`: at every position of a pass instead of each row's last (not in mode `step`)."""
    link_weights: bool = False
    """Refer to the checkpoint's own bytes where dtype and layout allow it."""
    overwrite: bool = False
    """Replace an existing bundle."""
    tokenizer: Path | None = None
    """A Hugging Face `tokenizer.json` to put into the bundle instead of the checkpoint's own."""
    state_dtype: Dtype = "float32"
    """Of the mLSTM's memories C between two passes; all other states are float32."""
    definitions: Definitions = "standard"
    """Of the cells, for runtimes without our kernels."""

    def __post_init__(self) -> None:
        if self.mode == "window":
            raise UserError(ErrorKind.argument, "--mode window is for networks that do not stream; this model does.")
        if self.mode == "step" and self.logits == "all":
            raise UserError(
                ErrorKind.argument,
                "mode `step` has one position a pass: leave --logits all out, or choose another --mode.",
            )
        if self.batch is not None and self.batch < 1:
            raise UserError(ErrorKind.argument, f"the batch is {self.batch}; give 1 or more, or leave it dynamic.")


Attach = Callable[[ir.Model, Mapping[str, LazyTensor], Path, bool, Advance], tuple[str, ...]]
"""Gives the initializers of a graph their bytes: the model, then arguments and result as of `attach_weights`."""


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    options: ExportOptions = ExportOptions(),
    stage: Stage = no_progress,
    attach: Attach | None = None,
    command: str | None = None,
) -> Bundle:
    """Write the bundle of a checkpoint to the folder `out`.

    Args:
        checkpoint: read by `xlstm_export.checkpoints`.
        out: made new; an existing bundle is replaced only with `options.overwrite`, anything else never.
        attach: what writes the weights; it keeps those that are integers in the checkpoint. None: all become floats.
        command: what the receipt says that was called.

    Raises:
        UserError: `out` is in the way, or a weight is unusable. Nothing is left behind.
    """
    check_destination(out, options.overwrite)
    if options.tokenizer is not None:
        _check_tokenizer(options.tokenizer)
    with new_folder(out) as folder, ThreadPoolExecutor(1) as background:
        hashing = background.submit(checkpoint.hashes)  # the source, while the graph is traced
        tick = stage("Tracing the model", None)
        sequence, all_positions = options.mode != "step", options.logits == "all"
        dtype = DTYPES[options.dtype]
        model, traced = trace_model(checkpoint.architecture, dtype, options.batch, sequence, all_positions)
        tick(1)
        # Linked weights stay where they lie, each by itself.
        link = options.link_weights
        tensors = checkpoint.tensors if link else join_linear_layers(model.graph, checkpoint.tensors)
        total = sum(t.nbytes for t in tensors.values())
        tick = stage("Checking and linking weights" if link else "Writing weights", total)
        weights = (tensors, folder, link, tick)
        weight_files = attach(model, *weights) if attach else attach_weights(model.graph, *weights)
        tokenizer = _copy_tokenizer(checkpoint, options.tokenizer, folder)
        tick = stage("Hashing the checkpoint", None)
        hashes = hashing.result()
        source = Source(checkpoint.path.name, hashes.whole if checkpoint.files else None)
        manifest = _describe(checkpoint, traced, options, weight_files, tokenizer, source)
        if attach and checkpoint.quantization is not None:
            manifest = replace(manifest, quantization=dict(checkpoint.quantization))
        tick(1)
        tick = stage("Checking the graph", None)
        manifest = write_bundle(folder, model, manifest, options.state_dtype, options.definitions)
        given = () if options.tokenizer is None else (options.tokenizer,)
        write_receipt(Bundle(folder, manifest), command, (*checkpoint.files, *checkpoint.companions, *given), hashes)
        tick(1)
    return Bundle(out, manifest)


def write_bundle(
    folder: Path,
    model: ir.Model,
    manifest: Manifest,
    state_dtype: Dtype = "float32",
    definitions: Definitions | None = None,
) -> Manifest:
    """Check the graph, then write it and the manifest into a folder that holds the weights. Returns the manifest.

    Args:
        definitions: of the cells; None: those that the graph has.

    Raises:
        UserError: `state_dtype` is half precision, and the graph has no memory to store in it.
    """
    states = mark_in_place(model.graph, manifest.states)
    manifest = replace(manifest, states=store_memories(model, states, state_dtype))
    model.metadata_props[METADATA_KEY] = manifest.to_json()
    proto = ir.to_proto(model)
    if definitions is not None:
        use_definitions(proto, definitions)
    _drop_shapes_of_weights(proto.graph)
    _check(proto)
    (folder / MODEL_FILE).write_bytes(proto.SerializeToString())
    (folder / FILE_NAME).write_text(manifest.to_json(), "utf-8")
    return manifest


def _describe(
    checkpoint: Checkpoint,
    model: Model,
    options: ExportOptions,
    weight_files: tuple[str, ...],
    tokenizer: str | None,
    source: Source,
) -> Manifest:
    first: Dimension = "batch" if options.batch is None else options.batch
    positions: Dimension = 1 if options.mode == "step" else "sequence"
    outputs = positions if model.all_positions else 1
    architecture = checkpoint.architecture
    vocab, name = architecture.vocab_size, input_name(architecture)
    tokens, vectors = (
        TensorSpec(name, "int64", (first, positions)),
        TensorSpec(name, "float32", (first, positions, architecture.input_width)),
    )
    return Manifest(
        family=checkpoint.family,
        dtype=options.dtype,
        mode=options.mode,
        batch=options.batch,
        inputs=(vectors if vocab is None else tokens,),
        lengths=None if options.mode == "step" else TensorSpec("lengths", "int32", (first,)),
        outputs=(TensorSpec(output_name(architecture), "float32", (first, outputs, architecture.output_width)),),
        states=tuple(StateTensor(s.name, s.next_name, "float32", (first, *s.shape)) for s in model.states),
        tokenizer=tokenizer,
        vocab_size=vocab,
        architecture=architecture.to_dict(),
        source=source,
        weight_files=weight_files,
        producer={"xlstm-export": __version__, "torch": str(torch.__version__), "onnx": onnx.__version__},
        bos_token_id=checkpoint.text.bos,
        eos_token_ids=checkpoint.text.eos,
        forecast=forecast_of(checkpoint),
    )


def tokenizer_name(checkpoint: Checkpoint, given: Path | None = None) -> str | None:
    """The tokenizer that a bundle of this checkpoint has: a file's name, `bytes`, or None for token ids only."""
    if given is not None or checkpoint.tokenizer is not None:
        return TOKENIZER_FILE
    return BYTE_TOKENIZER if checkpoint.architecture.vocab_size == BYTE_VOCABULARY else None


def _copy_tokenizer(checkpoint: Checkpoint, given: Path | None, folder: Path) -> str | None:
    if (source := given or checkpoint.tokenizer) is not None:
        shutil.copyfile(source, folder / TOKENIZER_FILE)
    return tokenizer_name(checkpoint, given)


def _check_tokenizer(path: Path) -> None:
    try:
        good = "model" in json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        good = False
    if not good:
        raise UserError(ErrorKind.argument, f"--tokenizer: {path} is no tokenizer.json of the tokenizers library.")


def _drop_shapes_of_weights(graph: onnx.GraphProto) -> None:
    """Initializers say their own shapes: a tool that transposes one (ONNX Runtime's quantiser) would not mend two."""
    weights = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.value_info if value.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _check(proto: onnx.ModelProto) -> None:
    """Full check and strict shape inference, with the weights as inputs: the checker refuses hard-linked files."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    graph = bare.graph
    external = [t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in external)
    inside = [t for t in graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    del graph.initializer[:]
    graph.initializer.extend(inside)
    onnx.checker.check_model(bare, full_check=True)
