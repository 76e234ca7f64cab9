"""Tensors of the `xlstm` package: the shapes that they must have, and what they become.

Upstream's quirks end here: norm weights are stored as w and applied as 1 + w; the sLSTM layer feeds its `fgate`
projection to the input gate and its `igate` projection to the forget gate (`blocks/slstm/layer.py`); recurrent
kernels and biases have one layout for each sLSTM backend, and a portable one (`blocks/slstm/cell.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...errors import ErrorKind, UserError
from ...modeling.architecture import Architecture, MLSTMBlock, SLSTMBlock
from ..files.tensors import LazyTensor
from ..files.weights import Shapes, Weights

STACK = "xlstm_block_stack."
EMBEDDING, HEAD = "token_embedding.weight", "lm_head.weight"
KERNEL, BIAS = "xlstm.slstm_cell._recurrent_kernel_", "xlstm.slstm_cell._bias_"

Tensors = Mapping[str, LazyTensor]


def expected(architecture: Architecture, stack: str, group_norm_weight: bool, weights: Weights) -> Shapes:
    """The shapes that each tensor may have, by upstream name."""
    shapes: Shapes = {}
    dim = architecture.embedding_dim
    if architecture.vocab_size is not None:
        shapes |= {name: [(architecture.vocab_size, dim)] for name in (EMBEDDING, HEAD)}
    for index, block in enumerate(architecture.blocks):
        at = f"{stack}blocks.{index}."
        shapes[f"{at}xlstm_norm.weight"] = [(dim,)]
        if isinstance(block, MLSTMBlock):
            shapes |= _expected_mlstm(block, dim, at)
        elif isinstance(block, SLSTMBlock):
            portable = f"{at}{KERNEL}" in weights and len(weights.tensors[f"{at}{KERNEL}"].shape) == 4
            shapes |= _expected_slstm(block, dim, at, group_norm_weight, portable)
    if architecture.final_norm:
        shapes[f"{stack}post_blocks_norm.weight"] = [(dim,)]
    return shapes


def _expected_mlstm(block: MLSTMBlock, dim: int, at: str) -> Shapes:
    layer, inner, heads, width = f"{at}xlstm.", block.inner_dim, block.num_heads, block.qkv_block_size
    _divides(f"{layer}mlstm_cell.igate.weight", heads, inner)
    _divides(f"{layer}q_proj.weight", width, inner)
    shapes: Shapes = {
        f"{layer}learnable_skip": [(inner,)],
        f"{layer}proj_up.weight": [(2 * inner, dim)],
        f"{layer}proj_down.weight": [(dim, inner)],
        f"{layer}conv1d.conv.weight": [(inner, 1, block.conv_kernel)],
        f"{layer}conv1d.conv.bias": [(inner,)],
        f"{layer}mlstm_cell.outnorm.weight": [(inner,)],
    }
    for gate in ("igate", "fgate"):
        shapes[f"{layer}mlstm_cell.{gate}.weight"] = [(heads, 3 * inner)]
        shapes[f"{layer}mlstm_cell.{gate}.bias"] = [(heads,)]
    for name in ("q_proj", "k_proj", "v_proj"):
        shapes[f"{layer}{name}.weight"] = [(inner // width, width, width)]
    if block.bias:
        shapes |= {f"{layer}{n}.bias": [(inner,)] for n in ("q_proj", "k_proj", "v_proj")}
        shapes |= {f"{layer}proj_up.bias": [(2 * inner,)], f"{layer}proj_down.bias": [(dim,)]}
    return shapes


def _expected_slstm(block: SLSTMBlock, dim: int, at: str, group_norm_weight: bool, portable: bool) -> Shapes:
    layer, heads, width = f"{at}xlstm.", block.num_heads, dim // block.num_heads
    _divides(f"{at}{KERNEL}", heads, dim)
    shapes: Shapes = {f"{layer}{gate}gate.weight": [(heads, width, width)] for gate in "ifzo"}
    if portable:
        shapes |= {f"{at}{KERNEL}": [(heads, width, 4, width)], f"{at}{BIAS}": [(heads, 4, width)]}
    else:
        shapes |= {f"{at}{KERNEL}": [(heads, 4 * width, width), (heads, width, 4 * width)], f"{at}{BIAS}": [(4 * dim,)]}
    if block.conv_kernel:
        shapes[f"{layer}conv1d.conv.weight"] = [(dim, 1, block.conv_kernel)]
        shapes[f"{layer}conv1d.conv.bias"] = [(dim,)]
    if group_norm_weight:
        shapes[f"{layer}group_norm.weight"] = [(dim,)]
    if block.feed_forward:
        hidden = block.feed_forward.hidden_dim
        shapes[f"{at}ffn_norm.weight"] = [(dim,)]
        shapes[f"{at}ffn.proj_up.weight"] = [(2 * hidden, dim)]
        shapes[f"{at}ffn.proj_down.weight"] = [(dim, hidden)]
        if block.feed_forward.bias:
            shapes |= {f"{at}ffn.proj_up.bias": [(2 * hidden,)], f"{at}ffn.proj_down.bias": [(dim,)]}
    return shapes


def _divides(name: str, part: int, whole: int) -> None:
    if whole % part:
        raise UserError(
            ErrorKind.checkpoint,
            f"tensor {name} divides a width of {whole} by {part}, which leaves a rest. The file is damaged, or its "
            "model is a variant that is not supported.",
        )


def vanilla_layout(name: str, tensor: LazyTensor, weights: Weights) -> LazyTensor:
    """Recurrent kernel (H, 4 * out, in) and bias [gate, head, unit] of the vanilla backend, from any layout.

    CUDA: kernel (H, in, 4 * out), bias [head, gate, unit]. The bias has the same size in both: the kernel tells.
    Portable: kernel (H, in, 4, out), bias (H, gate, unit), as both backends' `_recurrent_kernel_int2ext` and
    `_bias_int2ext` give them; their bytes are those of CUDA's.
    """
    if not name.endswith((KERNEL, BIAS)):
        return tensor
    kernel = f"{name.removesuffix(BIAS)}{KERNEL}" if name.endswith(BIAS) else name
    heads, width, *columns = weights.tensors[kernel].shape
    if len(columns) == 1 and width > columns[0]:
        return tensor
    if name == kernel:
        return tensor.map(
            lambda R: R.reshape(heads, width, 4, width).permute(0, 2, 3, 1).reshape(heads, 4 * width, width)
        )
    return tensor.map(lambda b: b.reshape(heads, 4, width).permute(1, 0, 2).reshape(-1))


def canonical(upstream: Tensors, architecture: Architecture, stack: str) -> dict[str, LazyTensor]:
    """Tensors under the names and in the layouts of the step-mode model."""
    tensors: dict[str, LazyTensor] = {}
    if architecture.vocab_size is not None:
        tensors["embedding.weight"] = upstream[EMBEDDING]
        if not architecture.tied_head:
            tensors["head.weight"] = upstream[HEAD]
    if architecture.final_norm:
        tensors["norm.weight"] = norm_weight(upstream[f"{stack}post_blocks_norm.weight"])
    for index, block in enumerate(architecture.blocks):
        source, target = f"{stack}blocks.{index}.", f"blocks.{index}."
        layer = {
            name.removeprefix(f"{source}xlstm."): tensor
            for name, tensor in upstream.items()
            if name.startswith(f"{source}xlstm.")
        }
        tensors[f"{target}norm.weight"] = norm_weight(upstream[f"{source}xlstm_norm.weight"])
        if isinstance(block, MLSTMBlock):
            tensors |= {f"{target}mlstm.{name}": tensor for name, tensor in mlstm_layer(layer).items()}
        elif isinstance(block, SLSTMBlock):
            named = slstm_layer(layer, block, architecture.embedding_dim)
            tensors |= {f"{target}slstm.{name}": tensor for name, tensor in named.items()}
            if block.feed_forward:
                tensors[f"{target}ffn_norm.weight"] = norm_weight(upstream[f"{source}ffn_norm.weight"])
                for kind in ("weight", "bias") if block.feed_forward.bias else ("weight",):
                    tensors[f"{target}ffn.proj_gate_up.{kind}"] = upstream[f"{source}ffn.proj_up.{kind}"]
                    tensors[f"{target}ffn.proj_down.{kind}"] = upstream[f"{source}ffn.proj_down.{kind}"]
    return tensors


def mlstm_layer(layer: Tensors) -> dict[str, LazyTensor]:
    tensors = {
        "head_norm.weight": norm_weight(layer["mlstm_cell.outnorm.weight"]),
        "skip": layer["learnable_skip"],
        "conv.weight": _conv_weight(layer["conv1d.conv.weight"]),
        "conv.bias": layer["conv1d.conv.bias"],
    }
    for kind in ("weight", "bias"):
        names = [f"{name}.{kind}" for name in ("proj_up", "q_proj", "k_proj", "v_proj", "proj_down")]
        tensors |= {name: layer[name] for name in names if name in layer}
        tensors |= {f"{gate}.{kind}": layer[f"mlstm_cell.{gate}.{kind}"] for gate in ("igate", "fgate")}
    return tensors


def slstm_layer(layer: Tensors, block: SLSTMBlock, dim: int) -> dict[str, LazyTensor]:
    heads, width = block.num_heads, dim // block.num_heads
    norm = layer.get("group_norm.weight")
    tensors = {
        "igate.weight": layer["fgate.weight"],  # slots i, f, z, o are fed by fgate, igate, zgate, ogate
        "fgate.weight": layer["igate.weight"],
        "zgate.weight": layer["zgate.weight"],
        "ogate.weight": layer["ogate.weight"],
        "R": layer[KERNEL.removeprefix("xlstm.")].reshape(heads, 4, width, width),
        "b": layer[BIAS.removeprefix("xlstm.")].reshape(4, heads, width),
        "head_norm.weight": LazyTensor.of(torch.ones(dim)) if norm is None else norm_weight(norm),
    }
    if block.conv_kernel:
        tensors["conv.weight"] = _conv_weight(layer["conv1d.conv.weight"])
        tensors["conv.bias"] = layer["conv1d.conv.bias"]
    return tensors


def norm_weight(stored: LazyTensor) -> LazyTensor:
    """1 + w, exactly: float64, whatever the dtype of w, to be rounded once where it is used."""
    return stored.map(lambda w: 1.0 + w.double())


def _conv_weight(stored: LazyTensor) -> LazyTensor:
    """(C, 1, K) to (K, C)."""
    return stored.map(lambda w: w[:, 0].t().contiguous())
