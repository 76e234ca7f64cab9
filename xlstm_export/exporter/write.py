"""Checkpoint → bundle: `model.onnx`, its weights and `manifest.json`, written whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
import torch

from .. import __version__
from ..bundle import manifest as m
from ..checkpoints.checkpoint import Checkpoint
from ..errors import ErrorKind, UserError
from ..modeling.model import Model
from ..progress import Stage, no_progress
from .trace import trace_model
from .weights import attach_weights

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BYTE_VOCABULARY = 256


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    dtype: m.Dtype = "float32",
    batch: int | None = None,
    mode: m.Mode = "both",
    logits: Literal["last", "all"] = "last",
    link_weights: bool = False,
    overwrite: bool = False,
    stage: Stage = no_progress,
) -> m.Manifest:
    """Write the bundle of a checkpoint to the folder `out`.

    Args:
        checkpoint: read by `xlstm_export.checkpoints`.
        out: made new; an existing bundle is replaced only with `overwrite`, anything else never.
        dtype: of the projections' weights and activations; cells, norms and states are float32 in any case.
        batch: fixed batch size, or None for a dynamic one.
        mode: `step`: one position a pass; `prefill`, `both`: any number, by the same graph. What differs is what
            engines are tuned for: chunks of a prompt, or those and single steps.
        logits: `all`: at every position of a pass instead of each row's last (not in mode `step`).
        link_weights: refer to the checkpoint's own bytes where dtype and layout allow it.

    Raises:
        UserError: `out` is in the way, or a weight is unusable. Nothing is left behind.
    """
    if mode == "step" and logits == "all":
        raise UserError(
            ErrorKind.argument, "mode `step` has one position a pass: leave --logits all out, or choose another --mode."
        )
    check_destination(out, overwrite)
    with _new_folder(out, overwrite) as folder, ThreadPoolExecutor(1) as background:
        digest = background.submit(checkpoint.sha256)  # the source, while the graph is traced
        tick = stage("Tracing the model", None)
        model, traced = trace_model(
            checkpoint.architecture, DTYPES[dtype], batch, sequence=mode != "step", all_positions=logits == "all"
        )
        tick(1)
        total = sum(t.nbytes for t in checkpoint.tensors.values())
        tick = stage("Checking and linking weights" if link_weights else "Writing weights", total)
        weight_files = attach_weights(model.graph, checkpoint.tensors, folder, link_weights, tick)
        tokenizer = _copy_tokenizer(checkpoint, folder)
        tick = stage("Hashing the checkpoint", None)
        manifest = _describe(checkpoint, traced, dtype, batch, mode, weight_files, tokenizer, digest.result())
        tick(1)
        tick = stage("Checking the graph", None)
        model.metadata_props[m.METADATA_KEY] = manifest.to_json()
        proto = ir.to_proto(model)
        _check(proto)
        (folder / m.MODEL_FILE).write_bytes(proto.SerializeToString())
        (folder / m.FILE_NAME).write_text(manifest.to_json(), "utf-8")
        tick(1)
    return manifest


def check_destination(out: Path, overwrite: bool) -> None:
    """Refuse a destination that holds something else than what may be replaced."""
    if not out.exists() or out.is_dir() and not any(out.iterdir()):
        return
    if not (out / m.FILE_NAME).is_file():
        raise UserError(
            ErrorKind.argument, f"{out} exists and is not a bundle: nothing was written. Choose another folder with -o."
        )
    if not overwrite:
        raise UserError(
            ErrorKind.argument, f"{out} already holds a bundle. Choose another folder with -o, or pass --overwrite."
        )


@contextmanager
def _new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place on success and vanishes on failure."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    folder.chmod(0o755)
    try:
        yield folder
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
            out.rename(old / "old")
            folder.rename(out)
            shutil.rmtree(old)
        else:
            folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _describe(
    checkpoint: Checkpoint,
    model: Model,
    dtype: m.Dtype,
    batch: int | None,
    mode: m.Mode,
    weight_files: tuple[str, ...],
    tokenizer: str | None,
    digest: str | None,
) -> m.Manifest:
    first: m.Dimension = "batch" if batch is None else batch
    positions: m.Dimension = 1 if mode == "step" else "sequence"
    outputs = positions if model.all_positions else 1
    architecture = checkpoint.architecture
    width, vocab = architecture.embedding_dim, architecture.vocab_size
    return m.Manifest(
        family=checkpoint.family,
        dtype=dtype,
        mode=mode,
        batch=batch,
        input=m.TensorSpec("tokens", "int64", (first, positions))
        if vocab
        else m.TensorSpec("inputs", "float32", (first, positions, width)),
        lengths=None if mode == "step" else m.TensorSpec("lengths", "int32", (first,)),
        output=m.TensorSpec("logits" if vocab else "outputs", "float32", (first, outputs, vocab or width)),
        states=tuple(m.StateTensor(s.name, s.next_name, "float32", (first, *s.shape)) for s in model.states),
        tokenizer=tokenizer,
        vocab_size=vocab,
        architecture=architecture.to_dict(),
        source=m.Source(checkpoint.path.name, digest),
        weight_files=weight_files,
        producer={"xlstm-export": __version__, "torch": str(torch.__version__), "onnx": onnx.__version__},
    )


def _copy_tokenizer(checkpoint: Checkpoint, folder: Path) -> str | None:
    if checkpoint.tokenizer is not None:
        shutil.copyfile(checkpoint.tokenizer, folder / "tokenizer.json")
        return "tokenizer.json"
    return "bytes" if checkpoint.architecture.vocab_size == BYTE_VOCABULARY else None


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
