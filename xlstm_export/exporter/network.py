"""A user's network → bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from torch import nn

from ..bundle import Bundle, Manifest, StateTensor, TensorSpec
from ..bundle.destination import check_destination, new_folder
from ..bundle.manifest import Dimension, Dtype, Mode, Source
from ..bundle.receipt import write_receipt
from ..checkpoints.files.tensors import LazyTensor
from ..checksum import FileHashes
from ..errors import ErrorKind, UserError
from ..modeling.layers import Dtypes
from ..networks import NetworkInput, Verdict, decide, digest
from ..networks.copies import copy_network
from ..networks.inputs import largest_integer
from ..networks.plan import LiftedNetwork, Plan
from ..progress import Stage, no_progress
from ..version import __version__
from .linear_layers import join_linear_layers
from .trace_network import TracedNetwork, trace_network
from .weights import TORCH_DTYPES, attach_weights
from .write import DTYPES, write_bundle

FAMILY = "network"


@dataclass(frozen=True)
class NetworkOptions:
    """How the bundle of a network shall be."""

    dtype: Dtype = "float32"
    """Of the projections inside xLSTM blocks; cells, norms and the user's own layers are float32."""
    batch: int | None = None
    """A fixed batch size; None: any."""
    mode: Mode | None = None
    """None: a stream (`both`) where the network streams, `step` where no input has time, else `window`."""
    overwrite: bool = False
    """Replace an existing bundle."""
    state_dtype: Dtype = "float32"
    """Of the mLSTM's memories C between two passes; all other states are float32."""


def export_network(
    network: nn.Module,
    inputs: tuple[NetworkInput, ...],
    out: Path,
    options: NetworkOptions = NetworkOptions(),
    name: str | None = None,
    stage: Stage = no_progress,
    command: str | None = None,
    read: Sequence[Path] = (),
) -> tuple[Bundle, Verdict]:
    """Write the bundle of a network to the folder `out`.

    Args:
        network: with its weights. It is not changed.
        inputs: what its `forward` is fed.
        out: made new.
        options: how the bundle shall be.
        name: what the bundle says that it was made from; None: the network's class.
        command, read: what the receipt says that was called, and the files that the network comes from.

    Returns:
        The bundle, and how the network runs.

    Raises:
        UserError: `out` is in the way, the network fails on its inputs, holds nothing of xLSTM, cannot be traced, or
            does not stream where `options.mode` wants it to. Nothing is left behind.
    """
    check_destination(out, options.overwrite)
    network = copy_network(network).eval().requires_grad_(False)
    tick = stage("Trying whole sequences and pieces of them", None)
    verdict = decide(network, inputs)
    mode = _mode(verdict, inputs, options)
    tick(1)
    with new_folder(out) as folder:
        tick = stage("Tracing the network", None)
        source = digest(network)
        dtype = DTYPES[options.dtype]
        largest = largest_integer(network)
        lifted = LiftedNetwork.of(network, inputs, Dtypes(weights=dtype))
        plan = None if mode == "window" else verdict.plan
        traced = trace_network(lifted, plan, options.batch, verdict.positions, mode == "step", largest)
        tick(1)
        tensors = join_linear_layers(traced.graph.graph, _take_weights(traced.graph.graph))
        tick = stage("Writing weights", sum(tensor.nbytes for tensor in tensors.values()))
        files = attach_weights(traced.graph.graph, tensors, folder, False, tick)
        manifest = Manifest(
            family=FAMILY,
            dtype=options.dtype,
            mode=mode,
            batch=options.batch,
            inputs=tuple(_input(one, options.batch, mode) for one in inputs),
            lengths=None if mode in ("step", "window") else TensorSpec("lengths", "int32", (_first(options.batch),)),
            outputs=_outputs(traced, options.batch, mode),
            states=tuple(
                StateTensor(s.name, s.next_name, "float32", (_first(options.batch), *s.shape)) for s in traced.states
            ),
            tokenizer=None,
            vocab_size=None,
            architecture=_describe(name or type(network).__qualname__, inputs, lifted, plan, verdict),
            source=Source(name or type(network).__qualname__, source),
            weight_files=files,
            producer={"xlstm-export": __version__, "torch": str(torch.__version__), "onnx": onnx.__version__},
        )
        tick = stage("Checking the graph", None)
        manifest = write_bundle(folder, traced.graph, manifest, options.state_dtype)
        write_receipt(Bundle(folder, manifest), command, read, FileHashes())
        tick(1)
    return Bundle(out, manifest), verdict


def _mode(verdict: Verdict, inputs: Sequence[NetworkInput], options: NetworkOptions) -> Mode:
    has_time = any(one.time_axis is not None for one in inputs)
    streams: Mode = "both" if has_time else "step"
    mode = options.mode or ("window" if verdict.plan is None else streams)
    if mode != "window" and verdict.plan is None:
        raise UserError(ErrorKind.argument, f"--mode {mode}: {verdict.reason}. --mode window takes whole sequences.")
    if mode in ("prefill", "both") and not has_time:
        raise UserError(
            ErrorKind.argument, f"--mode {mode}: no input has time. Write S for it (x=B,S,12), or leave --mode out."
        )
    if mode == "window" and not has_time and verdict.plan is not None:
        raise UserError(ErrorKind.argument, "--mode window: the network is fed one position, and keeps states.")
    return mode


def _first(batch: int | None) -> Dimension:
    return "batch" if batch is None else batch


def _input(one: NetworkInput, batch: int | None, mode: Mode) -> TensorSpec:
    time: Dimension = 1 if mode == "step" else "sequence"
    named: dict[str, Dimension] = {"B": _first(batch), "S": time}
    shape = tuple(axis if isinstance(axis, int) else named[axis] for axis in one.axes)
    return TensorSpec(one.name, one.dtype, shape)


def _outputs(traced: TracedNetwork, batch: int | None, mode: Mode) -> tuple[TensorSpec, ...]:
    """With the shapes that the graph has for them."""
    specs = []
    for name, value in zip(traced.outputs, traced.graph.graph.outputs, strict=False):
        shape = [d if isinstance(d, int) else d.value for d in (value.shape or ())]
        along = shape.count("sequence") == 1  # twice: a map of positions against positions
        rest: list[Dimension] = [
            d if isinstance(d, int) else "sequence" if d == "sequence" and along else None for d in shape[1:]
        ]
        if shape[:1] != [_first(batch)] or None in rest and mode != "window":
            raise UserError(
                ErrorKind.argument,
                f"Output {name} has the shape {shape}: its first axis must be the batch"
                f"{'' if mode == 'window' else ', and its other axes time or fixed'}. Change what the network returns.",
            )
        specs.append(TensorSpec(name, "float32", (_first(batch), *rest)))
    return tuple(specs)


def _describe(
    name: str, inputs: Sequence[NetworkInput], lifted: LiftedNetwork, plan: Plan | None, verdict: Verdict
) -> dict[str, object]:
    carried = verdict.carried if plan is not None else None
    return {
        "network": name,
        "inputs": [str(one) for one in inputs],
        "cells": [{"path": path, "kind": module.kind} for path, module in lifted.lifted.items()],
        "carried": None if carried is None else {"argument": carried.argument, "output": carried.output},
        "streams": verdict.plan is not None,
        "reason": verdict.reason,
    }


def _take_weights(graph: ir.Graph) -> dict[str, LazyTensor]:
    """The parameters among the initializers, without their bytes in the graph."""
    tensors = {}
    for name, value in graph.initializers.items():
        if value.dtype in TORCH_DTYPES and not str(name).startswith("constants."):
            assert value.const_value is not None
            raw = getattr(value.const_value, "raw", None)
            tensor = raw if isinstance(raw, torch.Tensor) else torch.from_numpy(value.const_value.numpy().copy())
            tensors[str(name)] = LazyTensor.of(tensor.detach())
            value.shape, value.dtype = ir.Shape(tensor.shape), value.dtype
            value.const_value = None
    return tensors
