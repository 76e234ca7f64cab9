"""Family `xlstm`: language models and block stacks of the `xlstm` package (Beck et al. 2024).

Upstream's quirks end here: norm weights are stored as w and applied as 1 + w; the sLSTM layer feeds its `fgate`
projection to the input gate and its `igate` projection to the forget gate (`blocks/slstm/layer.py`); recurrent
kernels and biases have one layout for each sLSTM backend (`blocks/slstm/cell.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import fields

import torch

from ..errors import UserError
from .architecture import Architecture, Block, FeedForward, MLSTMBlock, SLSTMBlock
from .checkpoint import Checkpoint
from .family import Family, join_tables, plain_factor
from .settings import Settings
from .tensors import LazyTensor
from .weights import Weights, missing

STACK = "xlstm_block_stack."
TABLES = ("token_embedding.weight", "lm_head.weight")
ACTIVATIONS = ("gelu", "relu", "relu^2", "sigmoid", "swish", "selu")
_ANCHOR = re.compile(r"(?P<prefix>.*?)blocks\.(?P<index>\d+)\.xlstm_norm\.weight")

_PROJECTION = {"proj_factor", "round_proj_up_dim_up", "round_proj_up_to_multiple_of"}
_PUSHED_DOWN = {"embedding_dim", "bias", "dropout", "context_length"}  # upstream overwrites them from the top
_MLSTM_KEYS = frozenset({"conv1d_kernel_size", "qkv_proj_blocksize", "num_heads", *_PROJECTION, *_PUSHED_DOWN})
_SLSTM_KEYS = frozenset({
    "num_heads", "conv1d_kernel_size", "group_norm_weight", "embedding_dim", "dropout", "hidden_size", "num_states",
    "backend", "function", "bias_init", "recurrent_weight_init", "num_gates", "gradient_recurrent_cut",
    "gradient_recurrent_clipval", "forward_clipval", "batch_size", "input_shape", "internal_input_shape",
    "output_shape", "constants", "dtype", "dtype_b", "dtype_r", "dtype_w", "dtype_g", "dtype_s", "dtype_a",
    "enable_automatic_mixed_precision", "initial_val",
})  # fmt: skip
_FEED_FORWARD_KEYS = frozenset({"act_fn", "embedding_dim", "dropout", "bias", "ff_type", *_PROJECTION})


def owns_tensors(names: Iterable[str]) -> bool:
    return any(_ANCHOR.fullmatch(name) for name in names)


def owns_settings(settings: Settings) -> bool:
    return "mlstm_block" in settings or "slstm_block" in settings or "slstm_at" in settings


def read(weights: Weights, settings: Settings) -> Checkpoint:
    """Understand the tensors, hold the settings against them, and rename."""
    check_settings(settings)
    weights, stack = _select(weights)
    if stack:
        weights, tied = join_tables(weights, *TABLES, settings, "tie_weights")
    else:
        tied = False
    architecture, group_norm_weight = _architecture(weights, stack, tied, settings)
    weights.require(_expected(architecture, stack, group_norm_weight))
    _agree(settings, architecture, group_norm_weight)
    upstream = {name: _vanilla_layout(name, tensor, weights) for name, tensor in weights.tensors.items()}
    return Checkpoint(
        family=FAMILY.name,
        path=weights.path,
        files=tuple(dict.fromkeys(weights.files.values())),
        architecture=architecture,
        tensors=_canonical(upstream, architecture, stack),
        config=upstream_config(architecture, group_norm_weight, settings),
        upstream=upstream,
        notes=weights.notes,
    )


# --- from weights ---------------------------------------------------------------------------------------------------


def _select(weights: Weights) -> tuple[Weights, str]:
    """The language model, or the block stack, without whatever prefix its tensors have; and the stack's prefix in it."""
    prefixes = {match["prefix"] for name in weights.tensors if (match := _ANCHOR.fullmatch(name))}
    if len(prefixes) > 1:
        names = " and ".join(repr(prefix) for prefix in sorted(prefixes))
        raise UserError(f"{weights.path} holds several block stacks, under {names}. Save the one to export by itself.")
    prefix = prefixes.pop()
    stack = ""
    if prefix.endswith(STACK):
        outer = prefix.removesuffix(STACK)
        if any(f"{outer}{name}" in weights for name in TABLES):
            prefix, stack = outer, STACK
    outside = [name for name in weights.tensors if not name.startswith(prefix)]
    if outside:
        raise UserError(
            f"{weights.where(outside[0])} lies outside the xLSTM model, whose tensors start with {prefix!r} "
            f"({len(outside)} such). This is a network that contains an xLSTM model; save that alone: "
            f"torch.save(network.{prefix.rstrip('.') or 'xlstm'}.state_dict(), ...)."
        )
    return weights.below(prefix), stack


def _architecture(weights: Weights, stack: str, tied: bool, settings: Settings) -> tuple[Architecture, bool]:
    indices = sorted({int(m["index"]) for name in weights.tensors if (m := re.match(rf"{stack}blocks\.(?P<index>\d+)\.", name))})
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
                f"{weights.path} has a feed-forward network in its sLSTM blocks ({at}ffn.proj_up.weight), and weights do "
                "not tell its activation. Pass the configuration with --config, or a YAML file that says at least\n"
                "slstm_block: {feedforward: {act_fn: gelu}}   # upstream's default; or " + ", ".join(ACTIVATIONS[1:])
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
            f"{weights.where(name)} has shape {list(weights.tensors[name].shape)}: a convolution that mixes channels "
            "(channel_mixing) is not supported."
        )
    if kernel == 1:
        raise UserError(f"{weights.where(name)} is a convolution of width 1, which upstream cannot train and which is not supported.")
    return kernel


def _uniform(weights: Weights, blocks: tuple[Block, ...]) -> None:
    """Upstream has one configuration for all blocks of a kind."""
    for kind in ("mlstm", "slstm"):
        first, *others = [(index, block) for index, block in enumerate(blocks) if block.kind == kind] or [(0, None)]
        for index, block in others:
            if block != first[1]:
                name = next(f.name for f in fields(block) if getattr(block, f.name) != getattr(first[1], f.name))
                raise UserError(
                    f"{weights.path}: block {index} has {name} {getattr(block, name)}, but block {first[0]} has "
                    f"{getattr(first[1], name)}. All {kind} blocks of a model are alike upstream; the checkpoint is damaged "
                    "or a variant that is not supported."
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
        shapes[f"{layer}slstm_cell._recurrent_kernel_"] = [(heads, 4 * head_dim, head_dim), (heads, head_dim, 4 * head_dim)]
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
        raise UserError(f"tensor {name} speaks of {part} in a width of {whole}, which does not divide. The file is damaged.")


def _agree(settings: Settings, architecture: Architecture, group_norm_weight: bool) -> None:
    """Hold every setting that the weights tell, too, against them."""
    blocks = architecture.blocks
    mlstm = next((b for b in blocks if b.kind == "mlstm"), None)
    slstm = next((b for b in blocks if b.kind == "slstm"), None)
    at = [index for index, block in enumerate(blocks) if block.kind == "slstm"]
    dim = architecture.embedding_dim
    settings.agree("embedding_dim", dim, "the width of blocks.0.xlstm_norm.weight")
    settings.agree("num_blocks", len(blocks), "blocks with tensors")
    settings.agree("add_post_blocks_norm", architecture.final_norm is not None, "post_blocks_norm.weight")
    if architecture.vocab_size is not None:
        settings.agree("vocab_size", architecture.vocab_size, "rows of token_embedding.weight")
    elif "vocab_size" in settings:
        raise settings.conflict("vocab_size", None, "a block stack without token_embedding.weight and lm_head.weight")
    if "slstm_at" in settings:
        told = settings.values["slstm_at"]
        if told != "all" and not (isinstance(told, list) and all(isinstance(i, int) for i in told)):
            raise settings.error("slstm_at", 'expected a list of block numbers, from 0, or "all"')
        everywhere = told == "all" or ("mlstm_block" in settings and settings.values["mlstm_block"] is None)
        if (list(range(len(blocks))) if everywhere else sorted(set(told))) != at:
            raise settings.conflict("slstm_at", at, "blocks with slstm_cell tensors")
    for key, block, kind in (("mlstm_block", mlstm, "mLSTM"), ("slstm_block", slstm, "sLSTM")):
        if key in settings and settings.values[key] is None and block is not None:
            raise settings.conflict(key, f"{kind} blocks", f"block {blocks.index(block)}")
    if mlstm:
        settings.agree("bias", mlstm.bias, "xlstm.proj_up.bias of the mLSTM blocks")
        section = settings.below("mlstm_block").below("mlstm")
        section.agree("num_heads", mlstm.num_heads, "rows of xlstm.mlstm_cell.igate.weight")
        section.agree("conv1d_kernel_size", mlstm.conv_kernel, "width of xlstm.conv1d.conv.weight")
        groups = mlstm.inner_dim // mlstm.qkv_block_size
        if "qkv_proj_blocksize" in section and mlstm.inner_dim // section.integer("qkv_proj_blocksize") != groups:
            raise section.conflict("qkv_proj_blocksize", mlstm.qkv_block_size, "width of xlstm.q_proj.weight")
        _agree_width(section, 2.0, dim, mlstm.inner_dim, "xlstm.proj_down.weight")
    if slstm:
        section = settings.below("slstm_block").below("slstm")
        section.agree("num_heads", slstm.num_heads, "rows of xlstm.slstm_cell._recurrent_kernel_")
        section.agree("conv1d_kernel_size", slstm.conv_kernel, "width of xlstm.conv1d.conv.weight, 0 without it")
        section.agree("group_norm_weight", group_norm_weight, "xlstm.group_norm.weight")
        outer = settings.below("slstm_block")
        if "feedforward" in outer and (outer.values["feedforward"] is None) != (slstm.feed_forward is None):
            actual = "a feed-forward network" if slstm.feed_forward else "none"
            raise outer.conflict("feedforward", actual, "ffn.proj_up.weight of the sLSTM blocks")
        if slstm.feed_forward:
            section = outer.below("feedforward")
            section.agree("bias", slstm.feed_forward.bias, "ffn.proj_up.bias")
            _agree_width(section, 1.3, dim, slstm.feed_forward.hidden_dim, "ffn.proj_down.weight")


def _agree_width(section: Settings, default: float, dim: int, width: int, evidence: str) -> None:
    told = _width(section, default, dim)
    if "proj_factor" in section and told != width:
        raise section.conflict("proj_factor", f"{width} of {dim}", f"{evidence}; the setting makes {told}")


def check_settings(settings: Settings) -> None:
    """Refuse what would change the equations and what is not understood."""
    mlstm, slstm = settings.below("mlstm_block"), settings.below("slstm_block")
    mlstm.only(frozenset({"mlstm"}), "mLSTMBlockConfig")
    mlstm.below("mlstm").only(_MLSTM_KEYS, "mLSTMLayerConfig")
    slstm.only(frozenset({"slstm", "feedforward"}), "sLSTMBlockConfig")
    slstm.below("feedforward").only(_FEED_FORWARD_KEYS, "FeedForwardConfig")
    slstm.below("feedforward").choice("ff_type", "ffn_gated", ("ffn_gated",))
    cell = slstm.below("slstm")
    cell.only(_SLSTM_KEYS, "sLSTMLayerConfig")
    if cell.values.get("function", "slstm") != "slstm":
        raise cell.error("function", "only the sLSTM function (slstm) is supported, not other recurrent cells")
    if cell.values.get("gradient_recurrent_clipval") is not None and cell.values.get("backend", "cuda") == "cuda":
        raise cell.error("gradient_recurrent_clipval", "upstream's CUDA kernel then clips the cell's output too, which is not supported")


def _width(section: Settings, default: float, dim: int) -> int:
    """Upstream's `UpProjConfigMixin._set_proj_up_dim`."""
    up = section.boolean("round_proj_up_dim_up", True)
    return _rounded(
        dim, section.positive("proj_factor", default), section.integer("round_proj_up_to_multiple_of", 64), up
    )


def _rounded(dim: int, factor: float, multiple: float, up: bool = True) -> int:
    return int((math.ceil if up else math.floor)(factor * dim / multiple) * multiple)


# --- upstream's configuration ---------------------------------------------------------------------------------------


def upstream_config(architecture: Architecture, group_norm_weight: bool, settings: Settings) -> dict[str, object]:
    """The configuration from which `dacite.from_dict` makes the upstream model, on any machine, for stepping.

    The sLSTM backend is "vanilla", dropout 0; `context_length`, which only sizes a mask that stepping does not use, 1.
    """
    dim, blocks = architecture.embedding_dim, architecture.blocks
    mlstm = next((b for b in blocks if b.kind == "mlstm"), None)
    slstm = next((b for b in blocks if b.kind == "slstm"), None)
    config: dict[str, object] = {
        "embedding_dim": dim,
        "num_blocks": len(blocks),
        "slstm_at": [index for index, block in enumerate(blocks) if block.kind == "slstm"],
        "add_post_blocks_norm": architecture.final_norm is not None,
        "bias": bool(mlstm and mlstm.bias),
        "dropout": 0.0,
        "context_length": 1,
        "mlstm_block": None,
        "slstm_block": None,
    }
    if architecture.vocab_size is not None:
        config |= {"vocab_size": architecture.vocab_size, "tie_weights": architecture.tied_head}
    if mlstm:
        config["mlstm_block"] = {
            "mlstm": {
                "num_heads": mlstm.num_heads,
                "conv1d_kernel_size": mlstm.conv_kernel,
                "qkv_proj_blocksize": mlstm.qkv_block_size,
                **_projection(settings.below("mlstm_block").below("mlstm"), 2.0, dim, mlstm.inner_dim),
            }
        }
    if slstm:
        feed_forward = None
        if slstm.feed_forward:
            section = settings.below("slstm_block").below("feedforward")
            feed_forward = {
                "act_fn": slstm.feed_forward.activation,
                "bias": slstm.feed_forward.bias,
                **_projection(section, 1.3, dim, slstm.feed_forward.hidden_dim),
            }
        config["slstm_block"] = {
            "slstm": {
                "backend": "vanilla",
                "num_heads": slstm.num_heads,
                "conv1d_kernel_size": slstm.conv_kernel,
                "group_norm_weight": group_norm_weight,
                "bias_init": "small_init",
                "dtype": "float32",
            },
            "feedforward": feed_forward,
        }
    return config


def _projection(section: Settings, default: float, dim: int, width: int) -> dict[str, object]:
    told = (section.positive("proj_factor", default), section.integer("round_proj_up_to_multiple_of", 64))
    factor, multiple = plain_factor(dim, width, [told], _rounded)
    return {"proj_factor": factor, "round_proj_up_to_multiple_of": multiple}


def from_settings(settings: Settings) -> tuple[Architecture, dict[str, object]]:
    """The architecture that upstream builds from a configuration, with its defaults."""
    check_settings(settings)
    dim, depth = settings.integer("embedding_dim", 128), settings.integer("num_blocks", 1)
    at = settings.values.get("slstm_at", [])
    if settings.values.get("mlstm_block") is None:
        at = "all"
    at = list(range(depth)) if at == "all" else at
    if not isinstance(at, list) or not all(isinstance(i, int) and 0 <= i < depth for i in at):
        raise settings.error("slstm_at", f'expected a list of block numbers, 0 to {depth - 1}, or "all"')
    if at and settings.values.get("slstm_block") is None:
        raise UserError(f"{settings.source} places sLSTM blocks at {at} but has no {settings.section}slstm_block. Add it.")
    outer = settings.below("mlstm_block").below("mlstm")
    mlstm = MLSTMBlock(
        inner_dim=_width(outer, 2.0, dim),
        num_heads=outer.integer("num_heads", 4),
        conv_kernel=outer.integer("conv1d_kernel_size", 4, minimum=2),
        qkv_block_size=outer.integer("qkv_proj_blocksize", 4),
        bias=settings.boolean("bias", False),
    )
    outer = settings.below("slstm_block")
    section, feed_forward = outer.below("feedforward"), None
    if "feedforward" not in outer or outer.values["feedforward"] is not None:
        feed_forward = FeedForward(
            hidden_dim=_width(section, 1.3, dim),
            activation=section.choice("act_fn", "gelu", ACTIVATIONS),
            bias=section.boolean("bias", False),
            fused_gate_up=True,
        )
    cell = outer.below("slstm")
    slstm = SLSTMBlock(
        num_heads=cell.integer("num_heads", 4),
        conv_kernel=cell.integer("conv1d_kernel_size", 4, minimum=0),
        feed_forward=feed_forward,
    )
    if slstm.conv_kernel == 1:
        raise cell.error("conv1d_kernel_size", "a convolution of width 1 is not supported; 0 leaves it out")
    if len(at) < depth and mlstm.inner_dim % mlstm.num_heads:
        raise outer.error("num_heads", f"the inner width {mlstm.inner_dim} is not a multiple of it")
    if at and dim % slstm.num_heads:
        raise cell.error("num_heads", f"the embedding width {dim} is not a multiple of it")
    architecture = Architecture(
        embedding_dim=dim,
        blocks=tuple(slstm if index in at else mlstm for index in range(depth)),
        vocab_size=settings.integer("vocab_size") if "vocab_size" in settings else None,
        tied_head=settings.boolean("tie_weights", False) and "vocab_size" in settings,
        final_norm="layer_norm" if settings.boolean("add_post_blocks_norm", True) else None,
        final_norm_eps=1e-5,
    )
    return architecture, upstream_config(architecture, cell.boolean("group_norm_weight", True), settings)


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
        named = layer(lambda name, source=source: upstream.get(f"{source}xlstm.{name}"), block, architecture.embedding_dim)
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


FAMILY = Family("xlstm", owns_tensors, owns_settings, read, from_settings)
