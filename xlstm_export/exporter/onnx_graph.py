"""From what torch traced to our graph: cells as `ai.xlstm` nodes with their definitions, tidy names, no metadata."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnxscript import opset21 as op
from onnxscript.values import Opset
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ..operators.names import CELLS, DOMAIN, OPSET, PLUGIN_ATTRIBUTES, VERSION
from ..operators.schemas import register_schemas, sequence_functions, step_functions
from .linear_layers import mark_linear_layers

_OURS = Opset(DOMAIN, VERSION)
_NAME_SCOPES = "pkg.torch.onnx.name_scopes"


def _mlstm_cell(q, k, v, i, f, C, n, m, q_scale, k_scale, gate_soft_cap, eps, lengths=None):  # type: ignore[no-untyped-def]
    return _OURS.MLSTMCell(
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
    return _OURS.SLSTMCell(
        x, R, b, y, c, n, m, *_given(lengths), forget_clamp=forget_clamp, **PLUGIN_ATTRIBUTES, _outputs=5
    )


def _causal_conv(x, window, weight, bias, lengths=None):  # type: ignore[no-untyped-def]
    return _OURS.CausalConv(x, window, weight, bias, *_given(lengths), _outputs=2)


def _mlstm_projections(  # type: ignore[no-untyped-def]
    x_conv, x, q_weight, k_weight, v_weight, i_weight, i_bias, f_weight, f_bias, together, lengths=None
):
    return _OURS.MLSTMProjections(
        x_conv,
        x,
        q_weight,
        k_weight,
        v_weight,
        i_weight,
        i_bias,
        f_weight,
        f_bias,
        *_given(lengths),
        together=together,
        _outputs=5,
    )


def _slstm_projections(x_conv, x, i_weight, f_weight, z_weight, o_weight, together, lengths=None):  # type: ignore[no-untyped-def]
    weights = (i_weight, f_weight, z_weight, o_weight)
    return _OURS.SLSTMProjections(x_conv, x, *weights, *_given(lengths), together=together)


def _mlstm_heads(x, gates, heads, qk_head, v_head, lengths=None):  # type: ignore[no-untyped-def]
    return _OURS.MLSTMHeads(x, gates, *_given(lengths), heads=heads, qk_head=qk_head, v_head=v_head, _outputs=6)


def _head_norm(h, weight, eps):  # type: ignore[no-untyped-def]
    return _OURS.HeadNorm(h, weight, eps=eps)


def _gated_head_norm(h, weight, gate, eps):  # type: ignore[no-untyped-def]
    return _OURS.GatedHeadNorm(h, weight, gate, eps=eps)


def _skip_gated_head_norm(h, weight, gate, skip, x, eps):  # type: ignore[no-untyped-def]
    return _OURS.SkipGatedHeadNorm(h, weight, gate, skip, x, eps=eps)


def _add_layer_norm(x, y, weight, eps):  # type: ignore[no-untyped-def]
    return _OURS.AddLayerNorm(x, y, weight, eps=eps, _outputs=2)


def _add_rms_norm(x, y, weight, eps):  # type: ignore[no-untyped-def]
    return _OURS.AddRMSNorm(x, y, weight, eps=eps, _outputs=2)


def _geglu(x):  # type: ignore[no-untyped-def]
    return _OURS.GEGLU(x)


def _swiglu(x):  # type: ignore[no-untyped-def]
    return _OURS.SwiGLU(x)


def _soft_cap(x, cap):  # type: ignore[no-untyped-def]
    return _OURS.SoftCap(x, cap=cap)


def _valid_tokens(tokens, lengths=None):  # type: ignore[no-untyped-def]
    return _OURS.ValidTokens(tokens, *_given(lengths))


def _last_positions(x, lengths):  # type: ignore[no-untyped-def]
    return _OURS.LastPositions(x, lengths)


def _lstm_layer(x, w, r, b, h, c):  # type: ignore[no-untyped-def]
    """ONNX's own LSTM."""
    y, h_next, c_next = op.LSTM(
        op.Transpose(x, perm=[1, 0, 2]),
        *_first_axis(w, r, op.Reshape(b, [-1])),
        None,
        *_first_axis(h, c),
        hidden_size=int(r.shape[1]),
    )
    return _batch_first(y), op.Squeeze(h_next, [0]), op.Squeeze(c_next, [0])


def _gru_layer(x, w, r, b, h):  # type: ignore[no-untyped-def]
    """ONNX's own GRU, with the reset gate behind the product as torch has it."""
    y, h_next = op.GRU(
        op.Transpose(x, perm=[1, 0, 2]),
        *_first_axis(w, r, op.Reshape(b, [-1])),
        None,
        *_first_axis(h),
        hidden_size=int(r.shape[1]),
        linear_before_reset=1,
    )
    return _batch_first(y), op.Squeeze(h_next, [0])


def _first_axis(*values: Any) -> list[Any]:
    return [op.Unsqueeze(value, [0]) for value in values]


def _batch_first(y: Any) -> Any:
    """From (S, 1, B, H) to (B, S, H)."""
    return op.Transpose(op.Squeeze(y, [1]), perm=[1, 0, 2])


def _given(lengths: Any) -> tuple[Any, ...]:
    return () if lengths is None else (lengths,)


def make_graph(
    traced: nn.Module | torch.export.ExportedProgram,
    inputs: Sequence[Tensor],
    lengths: Mapping[str, Tensor],
    dynamic_shapes: Any,
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> ir.Model:
    """The graph of one pass.

    Args:
        traced: a module to trace, or what tracing gave.
        inputs: examples, positional; those of a traced program may be left out.
        lengths: an example by name; empty where there are none.
        dynamic_shapes: as `torch.export` takes them, for a module.
        input_names, output_names: of the graph, in its order.

    Returns:
        The graph. Initializers that were fake tensors have names, shapes and dtypes but no bytes.
    """
    register_schemas()
    given = {} if isinstance(traced, torch.export.ExportedProgram) else {"dynamic_shapes": dynamic_shapes}
    with warnings.catch_warnings(), silenced("torch"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            traced,
            tuple(inputs),
            kwargs=dict(lengths),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            optimize=False,
            input_names=list(input_names),
            output_names=list(output_names),
            custom_translation_table=_translations(),
            **given,
        )
    parameters = {*(traced.state_dict() if isinstance(traced, nn.Module) else traced.state_dict)}
    assert program is not None  # it is None only where it is written to a file
    graph = program.model
    for value in graph.graph.initializers.values():
        if isinstance(getattr(value.const_value, "raw", None), FakeTensor):  # the optimizer would try to read it
            value.const_value = None
    with silenced("onnx_ir"):  # it warns of every initializer without bytes
        onnxscript.optimizer.optimize_ir(graph)
    ours = [node for node in graph.graph if node.domain == DOMAIN]
    used = {node.op_type for node in ours}
    sequence = sequence_functions()
    with_lengths = any(len(node.inputs) == len(sequence[node.op_type].input) for node in ours if node.op_type in CELLS)
    for name, function in (sequence if with_lengths else step_functions()).items():
        if name in used:
            graph.functions[(DOMAIN, name, "")] = ir.serde.deserialize_function(function)
    graph.opset_imports[DOMAIN] = VERSION
    mark_linear_layers(graph)
    _name_after_modules(graph.graph, parameters)
    graph.producer_name, graph.producer_version = "xlstm-export", None
    return graph


def _translations() -> dict[Any, Any]:
    ops = torch.ops.xlstm
    found = {
        ops.mlstm_cell.default: _mlstm_cell,
        ops.slstm_cell.default: _slstm_cell,
        ops.causal_conv.default: _causal_conv,
        ops.mlstm_projections.default: _mlstm_projections,
        ops.slstm_projections.default: _slstm_projections,
        ops.mlstm_heads.default: _mlstm_heads,
        ops.head_norm.default: _head_norm,
        ops.gated_head_norm.default: _gated_head_norm,
        ops.skip_gated_head_norm.default: _skip_gated_head_norm,
        ops.add_layer_norm.default: _add_layer_norm,
        ops.add_rms_norm.default: _add_rms_norm,
        ops.geglu.default: _geglu,
        ops.swiglu.default: _swiglu,
        ops.soft_cap.default: _soft_cap,
        ops.valid_tokens.default: _valid_tokens,
        ops.last_positions.default: _last_positions,
    }
    if hasattr(ops, "lstm_layer"):
        found |= {ops.lstm_layer.default: _lstm_layer, ops.gru_layer.default: _gru_layer}
    return found


@contextmanager
def silenced(logger_name: str) -> Iterator[None]:
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _name_after_modules(graph: ir.Graph, parameters: set[str]) -> None:
    """Name each node `blocks.3.mlstm.q_proj/Linear` and its values after it, and drop the tracer's metadata."""
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
    constants = [v for n, v in graph.initializers.items() if v.const_value is not None and n not in parameters]
    for index, value in enumerate(constants):
        value.name = f"constants.{index}"


def _innermost_module(scopes: str) -> str:
    """`"['', 'blocks.0', 'blocks.0.mlstm', 'linear']"` → `"blocks.0.mlstm"`; the last entry is the node."""
    entries = [s.strip().strip("'\"") for s in scopes.strip("[]").split(",")]
    module = entries[-2] if len(entries) >= 2 else ""
    return "" if module.startswith("_") else module  # shapes of the inputs: the tracer's own
