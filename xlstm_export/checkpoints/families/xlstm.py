"""Family `xlstm`: language models and block stacks of the `xlstm` package (Beck et al. 2024).

Upstream's quirks end here: norm weights are stored as w and applied as 1 + w; the sLSTM layer feeds its `fgate`
projection to the input gate and its `igate` projection to the forget gate (`blocks/slstm/layer.py`); recurrent
kernels and biases have one layout for each sLSTM backend (`blocks/slstm/cell.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import fields

import torch

from ...errors import ErrorKind, UserError
from ...modeling.architecture import Architecture, Block, FeedForward, MLSTMBlock, SLSTMBlock
from ..checkpoint import Checkpoint
from ..files.settings import Marks, Settings
from ..files.tensors import LazyTensor
from ..files.weights import Weights, missing
from .family import Family, join_tables, outline_of
from .xlstm_settings import ACTIVATIONS, agree, check_settings, from_settings, upstream_config

STACK = "xlstm_block_stack."
TABLES = ("token_embedding.weight", "lm_head.weight")
_CONSTANTS = ("mlstm_cell.causal_mask",)  # a buffer of early versions
_ANCHOR = re.compile(r"(?P<root>(?:.*?\.)?)blocks\.(?P<index>\d+)\.xlstm_norm\.weight")


def roots(names: Collection[str]) -> list[str]:
    """Of language models, and of block stacks alone."""
    found: dict[str, None] = {}
    for name in names:
        if match := _ANCHOR.fullmatch(name):
            root = outer = match["root"]
            if root.endswith(STACK):
                outer = root.removesuffix(STACK)
            found[outer if any(f"{outer}{table}" in names for table in TABLES) else root] = None
    return list(found)


def outline(weights: Weights) -> str:
    return outline_of(weights, f"{_stack(weights)}blocks.0.xlstm_norm.weight", TABLES[0])


def read(weights: Weights, settings: Settings) -> Checkpoint:
    """Understand the tensors, hold the settings against them, and rename."""
    check_settings(settings)
    if weights.root.endswith("backbone.") and not settings.given:
        raise UserError(
            ErrorKind.checkpoint,
            f"{weights.path} has no configuration and the tensor names of Prot-xLSTM, whose models may turn keys by "
            "position (position_embeddings): weights do not tell. Pass the configuration with --config.",
        )
    weights = weights.without(_CONSTANTS)
    stack = _stack(weights)
    if stack:
        weights, tied = join_tables(weights, *TABLES, settings, "tie_weights")
    else:
        tied = False
    architecture, group_norm_weight = _architecture(weights, stack, tied, settings)
    weights.require(_expected(architecture, stack, group_norm_weight))
    agree(settings, architecture, group_norm_weight)
    upstream = {name: _vanilla_layout(name, tensor, weights) for name, tensor in weights.tensors.items()}
    return Checkpoint.of(
        weights,
        family=FAMILY.name,
        architecture=architecture,
        tensors=_canonical(upstream, architecture, stack),
        config=upstream_config(architecture, group_norm_weight, settings),
        upstream=upstream,
    )


# --- from weights ---------------------------------------------------------------------------------------------------


def _stack(weights: Weights) -> str:
    """What the names of the block stack's tensors start with: nothing, where there is no language model around it."""
    return STACK if any(name.startswith(f"{STACK}blocks.") for name in weights.tensors) else ""


def _architecture(weights: Weights, stack: str, tied: bool, settings: Settings) -> tuple[Architecture, bool]:
    indices = sorted(
        {int(m["index"]) for name in weights.tensors if (m := re.match(rf"{stack}blocks\.(?P<index>\d+)\.", name))}
    )
    if indices != list(range(len(indices))):
        gap = next(i for i in range(len(indices)) if i not in indices)
        raise missing(weights, [f"{stack}blocks.{gap}.xlstm_norm.weight"])
    if stack:
        vocab_size, dim = weights.shape(TABLES[0], 2)
    else:
        vocab_size, (dim,) = None, weights.shape("blocks.0.xlstm_norm.weight", 1)
    blocks = tuple(_block(weights, f"{stack}blocks.{index}.", settings) for index in indices)
    _uniform(weights, blocks)
    norms = {f"{stack}blocks.{i}.xlstm.group_norm.weight" in weights for i, b in enumerate(blocks) if b.kind == "slstm"}
    if len(norms) > 1:
        absent = next(
            name
            for i, b in enumerate(blocks)
            if b.kind == "slstm" and (name := f"{stack}blocks.{i}.xlstm.group_norm.weight") not in weights
        )
        raise missing(weights, [absent])
    architecture = Architecture(
        embedding_dim=dim,
        blocks=blocks,
        vocab_size=vocab_size,
        tied_head=tied,
        final_norm="layer_norm" if f"{stack}post_blocks_norm.weight" in weights else None,
        final_norm_eps=1e-5,
    )
    return architecture, norms != {False}


def _block(weights: Weights, at: str, settings: Settings) -> Block:
    if f"{at}xlstm.slstm_cell._recurrent_kernel_" not in weights:
        return MLSTMBlock(
            inner_dim=weights.shape(f"{at}xlstm.proj_down.weight", 2)[1],
            num_heads=weights.shape(f"{at}xlstm.mlstm_cell.igate.weight", 2)[0],
            conv_kernel=_conv_kernel(weights, at),
            qkv_block_size=weights.shape(f"{at}xlstm.q_proj.weight", 3)[2],
            bias=f"{at}xlstm.proj_up.bias" in weights,
        )
    feed_forward = None
    if f"{at}ffn_norm.weight" in weights or f"{at}ffn.proj_down.weight" in weights:
        section = settings.below("slstm_block").below("feedforward")
        if not settings.given:
            raise UserError(
                ErrorKind.checkpoint,
                f"{weights.path} has a feed-forward network in its sLSTM blocks ({at}ffn.proj_up.weight), and weights "
                "do not tell its activation. Pass the configuration with --config, or a YAML file that says at least\n"
                "slstm_block: {feedforward: {act_fn: gelu}}   # upstream's default; or " + ", ".join(ACTIVATIONS[1:]),
            )
        feed_forward = FeedForward(
            hidden_dim=weights.shape(f"{at}ffn.proj_down.weight", 2)[1],
            activation=section.choice("act_fn", "gelu", ACTIVATIONS),
            bias=f"{at}ffn.proj_up.bias" in weights,
            fused_gate_up=True,
        )
    return SLSTMBlock(
        num_heads=weights.shape(f"{at}xlstm.slstm_cell._recurrent_kernel_", 3)[0],
        conv_kernel=_conv_kernel(weights, at) if f"{at}xlstm.conv1d.conv.weight" in weights else 0,
        feed_forward=feed_forward,
    )


def _conv_kernel(weights: Weights, at: str) -> int:
    name = f"{at}xlstm.conv1d.conv.weight"
    _, mixed, kernel = weights.shape(name, 3)
    if mixed != 1:
        raise UserError(
            ErrorKind.checkpoint,
            f"{weights.where(name)} has shape {list(weights.tensors[name].shape)}: a convolution that mixes channels "
            "(channel_mixing) is not supported.",
        )
    if kernel == 1:
        raise UserError(
            ErrorKind.checkpoint,
            f"{weights.where(name)} is a convolution of width 1, which is not supported (upstream cannot train it).",
        )
    return kernel


def _uniform(weights: Weights, blocks: tuple[Block, ...]) -> None:
    """Upstream has one configuration for all blocks of a kind."""
    for kind in ("mlstm", "slstm"):
        first, *others = [(index, block) for index, block in enumerate(blocks) if block.kind == kind] or [(0, None)]
        for index, block in others:
            if block != first[1]:
                name = next(f.name for f in fields(block) if getattr(block, f.name) != getattr(first[1], f.name))
                raise UserError(
                    ErrorKind.checkpoint,
                    f"{weights.path}: block {index} has {name} {getattr(block, name)}, but block {first[0]} has "
                    f"{getattr(first[1], name)}. All {kind} blocks of a model are alike upstream; the checkpoint is "
                    "damaged, or a variant that is not supported.",
                )


def _expected(architecture: Architecture, stack: str, group_norm_weight: bool) -> dict[str, list[tuple[int, ...]]]:
    """The shapes that each tensor may have, by upstream name."""
    dim, shapes = architecture.embedding_dim, {}
    if architecture.vocab_size is not None:
        shapes |= {name: [(architecture.vocab_size, dim)] for name in TABLES}
    for index, block in enumerate(architecture.blocks):
        at = f"{stack}blocks.{index}."
        layer = f"{at}xlstm."
        shapes[f"{at}xlstm_norm.weight"] = [(dim,)]
        if isinstance(block, MLSTMBlock):
            inner, heads, width = block.inner_dim, block.num_heads, block.qkv_block_size
            _divides(f"{layer}mlstm_cell.igate.weight", heads, inner)
            _divides(f"{layer}q_proj.weight", width, inner)
            shapes |= {
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
            continue
        heads, head_dim = block.num_heads, dim // block.num_heads
        _divides(f"{layer}slstm_cell._recurrent_kernel_", heads, dim)
        shapes |= {f"{layer}{gate}gate.weight": [(heads, head_dim, head_dim)] for gate in "ifzo"}
        shapes[f"{layer}slstm_cell._recurrent_kernel_"] = [
            (heads, 4 * head_dim, head_dim),
            (heads, head_dim, 4 * head_dim),
        ]
        shapes[f"{layer}slstm_cell._bias_"] = [(4 * dim,)]
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
    if architecture.final_norm:
        shapes[f"{stack}post_blocks_norm.weight"] = [(dim,)]
    return shapes


def _divides(name: str, part: int, whole: int) -> None:
    if whole % part:
        raise UserError(
            ErrorKind.checkpoint,
            f"tensor {name} divides a width of {whole} by {part}, which leaves a rest. The file is damaged, or its "
            "model is a variant that is not supported.",
        )


# --- canonical tensors ----------------------------------------------------------------------------------------------


def _canonical(upstream: dict[str, LazyTensor], architecture: Architecture, stack: str) -> dict[str, LazyTensor]:
    """Tensors under the names and in the layouts of the step-mode model."""
    tensors: dict[str, LazyTensor] = {}
    if architecture.vocab_size is not None:
        tensors["embedding.weight"] = upstream["token_embedding.weight"]
        if not architecture.tied_head:
            tensors["head.weight"] = upstream["lm_head.weight"]
    if architecture.final_norm:
        tensors["norm.weight"] = _norm_weight(upstream[f"{stack}post_blocks_norm.weight"])
    for index, block in enumerate(architecture.blocks):
        source, target = f"{stack}blocks.{index}.", f"blocks.{index}."
        tensors[f"{target}norm.weight"] = _norm_weight(upstream[f"{source}xlstm_norm.weight"])
        layer = _mlstm_layer if isinstance(block, MLSTMBlock) else _slstm_layer
        named = layer(
            lambda name, source=source: upstream.get(f"{source}xlstm.{name}"), block, architecture.embedding_dim
        )
        tensors |= {f"{target}{block.kind}.{name}": tensor for name, tensor in named.items() if tensor is not None}
        if isinstance(block, SLSTMBlock) and block.feed_forward:
            tensors[f"{target}ffn_norm.weight"] = _norm_weight(upstream[f"{source}ffn_norm.weight"])
            for kind in ("weight", "bias") if block.feed_forward.bias else ("weight",):
                tensors[f"{target}ffn.proj_gate_up.{kind}"] = upstream[f"{source}ffn.proj_up.{kind}"]
                tensors[f"{target}ffn.proj_down.{kind}"] = upstream[f"{source}ffn.proj_down.{kind}"]
    return tensors


_Get = Callable[[str], LazyTensor | None]


def _mlstm_layer(get: _Get, block: MLSTMBlock, dim: int) -> dict[str, LazyTensor | None]:
    tensors = {
        "head_norm.weight": _norm_weight(get("mlstm_cell.outnorm.weight")),
        "skip": get("learnable_skip"),
        "conv.weight": _conv_weight(get("conv1d.conv.weight")),
        "conv.bias": get("conv1d.conv.bias"),
    }
    for kind in ("weight", "bias"):
        tensors |= {f"{n}.{kind}": get(f"{n}.{kind}") for n in ("proj_up", "q_proj", "k_proj", "v_proj", "proj_down")}
        tensors |= {f"{gate}.{kind}": get(f"mlstm_cell.{gate}.{kind}") for gate in ("igate", "fgate")}
    return tensors


def _slstm_layer(get: _Get, block: SLSTMBlock, dim: int) -> dict[str, LazyTensor | None]:
    heads, head_dim = block.num_heads, dim // block.num_heads
    norm_weight = get("group_norm.weight")
    return {
        "igate.weight": get("fgate.weight"),  # slots i, f, z, o are fed by fgate, igate, zgate, ogate
        "fgate.weight": get("igate.weight"),
        "zgate.weight": get("zgate.weight"),
        "ogate.weight": get("ogate.weight"),
        "R": get("slstm_cell._recurrent_kernel_").reshape(heads, 4, head_dim, head_dim),
        "b": get("slstm_cell._bias_").reshape(4, heads, head_dim),
        "head_norm.weight": LazyTensor.of(torch.ones(dim)) if norm_weight is None else _norm_weight(norm_weight),
        "conv.weight": _conv_weight(get("conv1d.conv.weight")) if block.conv_kernel else None,
        "conv.bias": get("conv1d.conv.bias") if block.conv_kernel else None,
    }


def _vanilla_layout(name: str, tensor: LazyTensor, weights: Weights) -> LazyTensor:
    """Recurrent kernel (H, 4 * out, in) and bias [gate, head, unit] of the vanilla backend, from either backend's.

    CUDA: kernel (H, in, 4 * out), bias [head, gate, unit]. The bias has the same size in both: the kernel tells.
    """
    if not name.endswith(("._recurrent_kernel_", "._bias_")):
        return tensor
    heads, rows, columns = weights.tensors[f"{name.rpartition('.')[0]}._recurrent_kernel_"].shape
    if rows > columns:
        return tensor
    head_dim = rows
    if name.endswith("._bias_"):
        return tensor.map(lambda b: b.reshape(heads, 4, head_dim).permute(1, 0, 2).reshape(-1))
    return tensor.map(
        lambda R: R.reshape(heads, head_dim, 4, head_dim).permute(0, 2, 3, 1).reshape(heads, 4 * head_dim, head_dim)
    )


def _norm_weight(stored: LazyTensor) -> LazyTensor:
    """1 + w, exactly: float64, whatever the dtype of w, to be rounded once where it is used."""
    return stored.map(lambda w: 1.0 + w.double())


def _conv_weight(stored: LazyTensor) -> LazyTensor:
    """(C, 1, K) to (K, C)."""
    return stored.map(lambda w: w[:, 0].t().contiguous())


FAMILY = Family(
    name="xlstm",
    models="xLSTMLMModel and xLSTMBlockStack of the xlstm package",
    configurations="xLSTMLMModelConfig or xLSTMBlockStackConfig (mlstm_block, slstm_block, ...)",
    marks=Marks(
        keys=(
            frozenset({"mlstm_block"}),
            frozenset({"slstm_block"}),
            frozenset({"slstm_at", "embedding_dim", "num_blocks"}),
        )
    ),
    packages=("xlstm",),
    roots=roots,
    outline=outline,
    read=read,
    from_settings=from_settings,
)
