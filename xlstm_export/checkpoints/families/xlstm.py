"""Family `xlstm`: language models and block stacks of the `xlstm` package (Beck et al. 2024)."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import fields

from ...errors import ErrorKind, UserError
from ...modeling.architecture import Architecture, FeedForward, MLSTMBlock, SLSTMBlock
from ..checkpoint import Checkpoint
from ..files.settings import Marks, Settings
from ..files.weights import Weights, missing
from .family import Family, Tables, join_tables, outline_of
from .xlstm_settings import ACTIVATIONS, KEYS, agree, check_settings, from_settings, upstream_config
from .xlstm_tensors import EMBEDDING, HEAD, KERNEL, STACK, canonical, expected, vanilla_layout

TABLES = Tables(EMBEDDING, HEAD, tied="tie_weights", backbone="xlstm_block_stack")
_CONSTANTS = ("mlstm_cell.causal_mask",)  # a buffer of early versions
Block = MLSTMBlock | SLSTMBlock
_ANCHOR = re.compile(r"(?P<root>(?:.*?\.)??)blocks\.(?P<index>\d+)\.xlstm_norm\.weight")


def roots(names: Collection[str]) -> list[str]:
    """Of language models, and of block stacks alone."""
    found: dict[str, None] = {}
    for name in names:
        if match := _ANCHOR.fullmatch(name):
            root = outer = match["root"]
            if root.endswith(STACK):
                outer = root.removesuffix(STACK)
            found[outer if any(f"{outer}{table}" in names for table in (EMBEDDING, HEAD)) else root] = None
    return list(found)


def outline(weights: Weights) -> str:
    return outline_of(weights, f"{_stack(weights)}blocks.0.xlstm_norm.weight", EMBEDDING)


def read(weights: Weights, settings: Settings) -> Checkpoint:
    """Understand the tensors, hold the settings against them, and rename."""
    notes = check_settings(settings)
    if weights.root.endswith("backbone.") and not settings.given:
        raise UserError(
            ErrorKind.checkpoint,
            f"{weights.path} has no configuration and the tensor names of Prot-xLSTM, whose models may turn keys by "
            "position (position_embeddings): weights do not tell. Pass the configuration with --config.",
        )
    weights, tied = weights.without(_CONSTANTS), False
    stack = _stack(weights)
    if stack:
        weights, tied = join_tables(weights, TABLES, settings)
        _check_tables(weights, settings)
    architecture, group_norm_weight = _architecture(weights, stack, tied, settings)
    weights.require(expected(architecture, stack, group_norm_weight, weights))
    agree(settings, architecture, group_norm_weight)
    upstream = {name: vanilla_layout(name, tensor, weights) for name, tensor in weights.tensors.items()}
    return Checkpoint.of(
        weights,
        family=FAMILY.name,
        architecture=architecture,
        tensors=canonical(upstream, architecture, stack),
        config=upstream_config(architecture, group_norm_weight, settings),
        upstream=upstream,
        notes=notes,
    )


# --- from weights ---------------------------------------------------------------------------------------------------


def _stack(weights: Weights) -> str:
    """What the names of the block stack's tensors start with: nothing, where there is no language model around it."""
    return STACK if any(name.startswith(f"{STACK}blocks.") for name in weights.tensors) else ""


def _check_tables(weights: Weights, settings: Settings) -> None:
    """Refuse layers of other kinds in the places of embedding and head, which users put there for other inputs."""
    stack = f"--select {weights.root}{STACK.removesuffix('.')}"
    (dim,) = weights.shape(f"{STACK}blocks.0.xlstm_norm.weight", 1)
    rows, columns = weights.shape(EMBEDDING, 2)
    outputs = weights.shape(HEAD, 2)[0]
    linear = (
        "which is not xLSTMLMModel's embedding but a linear layer, for vectors in place of tokens. Export the block "
        f"stack, which takes vectors: {stack}"
    )
    if "token_embedding.bias" in weights:
        raise UserError(ErrorKind.checkpoint, f"{weights.where(EMBEDDING)} has a bias beside it, {linear}")
    if columns != dim and rows == dim or rows == columns and outputs != rows:
        shape = f"has shape [{rows}, {columns}] in a model of width {dim} with {outputs} outputs"
        raise UserError(ErrorKind.checkpoint, f"{weights.where(EMBEDDING)} {shape}, {linear}")
    if "lm_head.bias" in weights or columns == dim and outputs != rows:
        what = "has a bias" if "lm_head.bias" in weights else f"has {outputs} rows for an embedding of {rows}"
        raise UserError(
            ErrorKind.checkpoint,
            f"{weights.where(HEAD)} {what}: it is not xLSTMLMModel's head but another layer. Export the block stack, "
            f"which gives vectors: {stack}",
        )
    if rows == columns and "vocab_size" not in settings:
        raise UserError(
            ErrorKind.checkpoint,
            f"{weights.where(EMBEDDING)} is square, so that the weights do not tell an embedding of {rows} words from "
            f"a linear layer. If it is an embedding, say so: --set vocab_size={rows}. If not, export the block stack, "
            f"which takes vectors: {stack}",
        )


def _architecture(weights: Weights, stack: str, tied: bool, settings: Settings) -> tuple[Architecture, bool]:
    indices = sorted(
        {int(m["index"]) for name in weights.tensors if (m := re.match(rf"{stack}blocks\.(?P<index>\d+)\.", name))}
    )
    if indices != list(range(len(indices))):
        gap = next(i for i in range(len(indices)) if i not in indices)
        raise missing(weights, [f"{stack}blocks.{gap}.xlstm_norm.weight"])
    (dim,) = weights.shape(f"{stack}blocks.0.xlstm_norm.weight", 1)
    vocab_size = weights.shape(EMBEDDING, 2)[0] if stack else None
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
        has_head=vocab_size is not None,
        final_norm="layer_norm" if f"{stack}post_blocks_norm.weight" in weights else None,
        final_norm_eps=1e-5,
    )
    return architecture, norms != {False}


def _block(weights: Weights, at: str, settings: Settings) -> Block:
    if f"{at}{KERNEL}" not in weights:
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
                "do not tell its activation. Say it:\n--set slstm_block.feedforward.act_fn=gelu\n"
                f"(upstream's default; or {', '.join(ACTIVATIONS[1:])}), or pass the configuration with --config.",
            )
        feed_forward = FeedForward(
            hidden_dim=weights.shape(f"{at}ffn.proj_down.weight", 2)[1],
            activation=section.choice("act_fn", "gelu", ACTIVATIONS),
            bias=f"{at}ffn.proj_up.bias" in weights,
            fused_gate_up=True,
        )
    return SLSTMBlock(
        num_heads=weights.shape(f"{at}{KERNEL}", 3, 4)[0],
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
    firsts: dict[str, int] = {}
    for index, block in enumerate(blocks):
        first = firsts.setdefault(block.kind, index)
        if block != blocks[first]:
            name = next(f.name for f in fields(block) if getattr(block, f.name) != getattr(blocks[first], f.name))
            raise UserError(
                ErrorKind.checkpoint,
                f"{weights.path}: block {index} has {name} {getattr(block, name)}, but block {first} has "
                f"{getattr(blocks[first], name)}. All {block.kind} blocks of a model are alike upstream; the "
                "checkpoint is damaged, or a variant that is not supported.",
            )


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
    keys=KEYS,
    packages=("xlstm",),
    roots=roots,
    outline=outline,
    read=read,
    from_settings=from_settings,
)
