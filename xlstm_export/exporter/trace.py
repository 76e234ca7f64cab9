"""Model → ONNX graph without weights: traced on fake tensors, cells as `ai.xlstm` nodes."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnxscript.values import Opset
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ..bundle.manifest import LOGITS
from ..modeling.architecture import Architecture
from ..modeling.layers import Dtypes
from ..modeling.model import Model
from ..operators.names import DOMAIN, OPSET, PLUGIN_ATTRIBUTES, VERSION
from ..operators.schemas import register_schemas, sequence_functions, step_functions

_CELLS = Opset(DOMAIN, VERSION)
_NAME_SCOPES = "pkg.torch.onnx.name_scopes"


def _mlstm_cell(q, k, v, i, f, C, n, m, q_scale, k_scale, gate_soft_cap, eps, lengths=None):  # type: ignore[no-untyped-def]
    return _CELLS.MLSTMCell(
        q,
        k,
        v,
        i,
        f,
        C,
        n,
        m,
        *_given(lengths),
        q_scale=q_scale,
        k_scale=k_scale,
        gate_soft_cap=gate_soft_cap,
        eps=eps,
        **PLUGIN_ATTRIBUTES,
        _outputs=4,
    )


def _slstm_cell(x, R, b, y, c, n, m, forget_clamp, lengths=None):  # type: ignore[no-untyped-def]
    return _CELLS.SLSTMCell(
        x, R, b, y, c, n, m, *_given(lengths), forget_clamp=forget_clamp, **PLUGIN_ATTRIBUTES, _outputs=5
    )


def _given(lengths: Any) -> tuple[Any, ...]:
    return () if lengths is None else (lengths,)


def output_name(architecture: Architecture) -> str:
    """Of the graph's first output: tokens can be drawn from what is called logits, and from nothing else."""
    if architecture.gives_logits:
        return LOGITS
    if architecture.patches:
        return "quantiles"
    return "outputs" if architecture.vocab_size is None else "hidden"


def input_name(architecture: Architecture) -> str:
    """Of the graph's first input."""
    if architecture.patches:
        return "patches"
    return "inputs" if architecture.vocab_size is None else "tokens"


def trace_model(
    architecture: Architecture, dtype: torch.dtype, batch: int | None, sequence: bool, all_positions: bool = False
) -> tuple[ir.Model, Model]:
    """Trace one pass of the model.

    Args:
        architecture: what to build.
        dtype: of the projection matrices; all else is float32.
        batch: a fixed batch size, or None for a dynamic one (dimension `batch`).
        sequence: any number of positions (dimension `sequence`) with an input `lengths`; else one step without.
        all_positions: outputs at every position, not at each row's last one only.

    Returns:
        The graph, whose initializers have names, shapes and dtypes but no bytes, and the fake model it came from
        (for the names and shapes of parameters and states).
    """
    register_schemas()
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings(), _silenced("torch"):
        warnings.simplefilter("ignore")
        model = Model(architecture, Dtypes(weights=dtype), all_positions).eval()
        example = (batch or 2, 3 if sequence else 1)
        names = (input_name(architecture), output_name(architecture))
        if architecture.vocab_size is None:
            inputs = torch.zeros(*example, architecture.input_width)
        else:
            inputs = torch.zeros(example, dtype=torch.int64)
        lengths = {"lengths": torch.ones(example[0], dtype=torch.int32)} if sequence else {}
        states = model.initial_states(example[0])
        rows = {0: torch.export.Dim("batch", min=1)} if batch is None else {}
        positions = {1: torch.export.Dim("sequence", min=1)} if sequence else {}
        dynamic = {"inputs": rows | positions, "states": (rows,) * len(states), **dict.fromkeys(lengths, rows)}
        program = torch.onnx.export(
            model,
            (inputs, *states),
            kwargs=lengths,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=dynamic,
            verbose=False,
            optimize=False,
            input_names=[names[0], *(s.name for s in model.states), *lengths],
            output_names=[names[1], *(s.next_name for s in model.states)],
            custom_translation_table={
                torch.ops.xlstm.mlstm_cell.default: _mlstm_cell,
                torch.ops.xlstm.slstm_cell.default: _slstm_cell,
            },
        )
    assert program is not None  # it is None only where it is written to a file
    graph = program.model
    for value in graph.graph.initializers.values():
        if isinstance(getattr(value.const_value, "raw", None), FakeTensor):  # the optimizer would try to read it
            value.const_value = None
    with _silenced("onnx_ir"):  # it warns of every initializer without bytes
        onnxscript.optimizer.optimize_ir(graph)
    used = {node.op_type for node in graph.graph if node.domain == DOMAIN}
    for name, function in (sequence_functions() if sequence else step_functions()).items():
        if name in used:
            graph.functions[(DOMAIN, name, "")] = ir.serde.deserialize_function(function)
    graph.opset_imports[DOMAIN] = VERSION
    _name_after_modules(graph.graph)
    if architecture.tied_head:  # one parameter, which the tracer calls by its last name
        graph.graph.initializers["head.weight"].name = "embedding.weight"
    graph.producer_name, graph.producer_version = "xlstm-export", None
    return graph, model


@contextmanager
def _silenced(logger_name: str) -> Iterator[None]:
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _name_after_modules(graph: ir.Graph) -> None:
    """Name each node `blocks.3.mlstm.q_proj/Gemm` and its values after it, and drop the tracer's metadata."""
    seen: Counter[str] = Counter()
    kept = {id(value) for value in (*graph.inputs, *graph.outputs)}
    modules: dict[int, str] = {}
    for node in graph:
        module = _innermost_module(node.metadata_props.get(_NAME_SCOPES, ""))
        if not module and node.inputs and node.inputs[0] is not None:  # the optimizer's own: as what it reads from
            module = modules.get(id(node.inputs[0].producer()), "")
        modules[id(node)] = module
        base = f"{module or 'model'}/{node.op_type}"
        seen[base] += 1
        node.name = base if seen[base] == 1 else f"{base}_{seen[base]}"
        for index, value in enumerate(node.outputs):
            if id(value) not in kept:
                value.name = node.name if len(node.outputs) == 1 else f"{node.name}:{index}"
            value.metadata_props.clear()
        node.metadata_props.clear()
        node.doc_string = None
    graph.metadata_props.clear()
    constants = [v for v in graph.initializers.values() if v.const_value is not None]
    for index, value in enumerate(constants):
        value.name = f"constants.{index}"


def _innermost_module(scopes: str) -> str:
    """`"['', 'blocks.0', 'blocks.0.mlstm', 'linear']"` → `"blocks.0.mlstm"`; the last entry is the node."""
    entries = [s.strip().strip("'\"") for s in scopes.strip("[]").split(",")]
    module = entries[-2] if len(entries) >= 2 else ""
    return "" if module.startswith("_") else module  # shapes of the inputs: the tracer's own
