"""Configurations of the `xlstm` package: what they make, and whether they say what the weights say."""

from __future__ import annotations

import math

from ...errors import ErrorKind, UserError
from ...modeling.architecture import Activation, Architecture, FeedForward, MLSTMBlock, SLSTMBlock
from ..files.settings import MAX_BLOCKS, Settings
from .family import plain_factor

KEYS = frozenset(
    {
        "vocab_size",
        "tie_weights",
        "weight_decay_on_embedding",
        "add_embedding_dropout",
        "mlstm_block",
        "slstm_block",
        "context_length",
        "num_blocks",
        "embedding_dim",
        "add_post_blocks_norm",
        "bias",
        "dropout",
        "slstm_at",
    }
)
"""Of xLSTMLMModelConfig. Others lie beside them in the configurations of training runs."""
_WITHOUT_EFFECT = frozenset({"type"})
ACTIVATIONS: tuple[Activation, ...] = ("gelu", "relu", "relu^2", "sigmoid", "swish", "selu")
_PROJECTION = {"proj_factor", "round_proj_up_dim_up", "round_proj_up_to_multiple_of"}
_PUSHED_DOWN = {"embedding_dim", "bias", "dropout", "context_length"}  # upstream overwrites them from the top
_MLSTM_KEYS = frozenset(
    {
        "conv1d_kernel_size",
        "qkv_proj_blocksize",
        "num_heads",
        *_PROJECTION,
        *_PUSHED_DOWN,
        "backend",
        "chunk_size",
        "return_last_state",  # of forks: how the cell is computed, not what
    }
)
_SLSTM_KEYS = frozenset(
    {
        "num_heads",
        "conv1d_kernel_size",
        "group_norm_weight",
        "embedding_dim",
        "dropout",
        "hidden_size",
        "num_states",
        "backend",
        "function",
        "bias_init",
        "recurrent_weight_init",
        "num_gates",
        "gradient_recurrent_cut",
        "gradient_recurrent_clipval",
        "forward_clipval",
        "batch_size",
        "input_shape",
        "internal_input_shape",
        "output_shape",
        "constants",
        "dtype",
        "dtype_b",
        "dtype_r",
        "dtype_w",
        "dtype_g",
        "dtype_s",
        "dtype_a",
        "enable_automatic_mixed_precision",
        "initial_val",
    }
)
_FEED_FORWARD_KEYS = frozenset({"act_fn", "embedding_dim", "dropout", "bias", "ff_type", *_PROJECTION})


def agree(settings: Settings, architecture: Architecture, group_norm_weight: bool) -> None:
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
        everywhere = "mlstm_block" in settings and settings.values["mlstm_block"] is None
        told = _slstm_at(settings, len(blocks))
        if (list(range(len(blocks))) if everywhere else told) != at:
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


def _slstm_at(settings: Settings, depth: int) -> list[int]:
    """The numbers of the sLSTM blocks; upstream counts negative ones from the end."""
    told = settings.values.get("slstm_at", [])
    if told == "all":
        return list(range(depth))
    numbers = [i for i in told if isinstance(i, int) and -depth <= i < depth] if isinstance(told, list) else []
    if not isinstance(told, list) or len(numbers) != len(told):
        raise settings.error("slstm_at", f'expected a list of block numbers, 0 to {depth - 1}, or "all"')
    return sorted({i % depth for i in numbers})


def _agree_width(section: Settings, default: float, dim: int, width: int, evidence: str) -> None:
    told = _width(section, default, dim)
    if "proj_factor" in section and told != width:
        raise section.conflict("proj_factor", f"{width} of {dim}", f"{evidence}; the setting makes {told}")


def check_settings(settings: Settings) -> tuple[str, ...]:
    """Refuse what would change the equations and what is not understood; returns notes of what does not matter."""
    if settings.values.get("position_embeddings", "none") not in (None, "none"):
        raise settings.error(
            "position_embeddings",
            "models with position embeddings (as in Prot-xLSTM) are a variant that is not supported",
        )
    mlstm, slstm = settings.below("mlstm_block"), settings.below("slstm_block")
    layer, cell, feed_forward = mlstm.below("mlstm"), slstm.below("slstm"), slstm.below("feedforward")
    for section, keys, name in (
        (mlstm, {"mlstm"}, "mLSTMBlockConfig"),
        (layer, _MLSTM_KEYS, "mLSTMLayerConfig"),
        (slstm, {"slstm", "feedforward"}, "sLSTMBlockConfig"),
        (cell, _SLSTM_KEYS, "sLSTMLayerConfig"),
        (feed_forward, _FEED_FORWARD_KEYS, "FeedForwardConfig"),
    ):
        section.only(_WITHOUT_EFFECT | keys, name)
    feed_forward.choice("ff_type", "ffn_gated", ("ffn_gated",))
    if cell.values.get("function", "slstm") != "slstm":
        raise cell.error("function", "only the sLSTM function (slstm) is supported, not other recurrent cells")
    if cell.values.get("gradient_recurrent_clipval") is not None and cell.values.get("backend", "cuda") == "cuda":
        raise cell.error(
            "gradient_recurrent_clipval",
            "upstream's CUDA kernel then clips the cell's output too, which is not supported",
        )
    sections = (mlstm, layer, slstm, cell, feed_forward)
    return tuple(note for section in sections for note in section.ignored(_WITHOUT_EFFECT))


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
    dim, depth = settings.integer("embedding_dim", 128), settings.integer("num_blocks", 1, maximum=MAX_BLOCKS)
    at = list(range(depth)) if settings.values.get("mlstm_block") is None else _slstm_at(settings, depth)
    if at and settings.values.get("slstm_block") is None:
        raise UserError(
            ErrorKind.checkpoint,
            f"{settings.source} places sLSTM blocks at {at} but has no {settings.section}slstm_block. Add it.",
        )
    layer, slstm_block = settings.below("mlstm_block").below("mlstm"), settings.below("slstm_block")
    mlstm = MLSTMBlock(
        inner_dim=_width(layer, 2.0, dim),
        num_heads=layer.integer("num_heads", 4),
        conv_kernel=layer.integer("conv1d_kernel_size", 4, minimum=2),
        qkv_block_size=layer.integer("qkv_proj_blocksize", 4),
        bias=settings.boolean("bias", False),
    )
    section, feed_forward = slstm_block.below("feedforward"), None
    if "feedforward" not in slstm_block or slstm_block.values["feedforward"] is not None:
        feed_forward = FeedForward(
            hidden_dim=_width(section, 1.3, dim),
            activation=section.choice("act_fn", "gelu", ACTIVATIONS),
            bias=section.boolean("bias", False),
            fused_gate_up=True,
        )
    cell = slstm_block.below("slstm")
    slstm = SLSTMBlock(
        num_heads=cell.integer("num_heads", 4),
        conv_kernel=cell.integer("conv1d_kernel_size", 4, minimum=0),
        feed_forward=feed_forward,
    )
    if slstm.conv_kernel == 1:
        raise cell.error("conv1d_kernel_size", "a convolution of width 1 is not supported; 0 leaves it out")
    if len(at) < depth and mlstm.inner_dim % mlstm.num_heads:
        raise layer.error("num_heads", f"the inner width {mlstm.inner_dim} is not a multiple of it")
    if at and dim % slstm.num_heads:
        raise cell.error("num_heads", f"the embedding width {dim} is not a multiple of it")
    architecture = Architecture(
        embedding_dim=dim,
        blocks=tuple(slstm if index in at else mlstm for index in range(depth)),
        vocab_size=settings.integer("vocab_size") if "vocab_size" in settings else None,
        tied_head=settings.boolean("tie_weights", False) and "vocab_size" in settings,
        has_head="vocab_size" in settings,
        final_norm="layer_norm" if settings.boolean("add_post_blocks_norm", True) else None,
        final_norm_eps=1e-5,
    )
    return architecture, upstream_config(architecture, cell.boolean("group_norm_weight", True), settings)
