"""Family `tirex`: TiRex, the sLSTM forecaster of the `tirex-ts` package (Auer et al. 2025, arXiv:2505.23719).

Upstream's quirks end here, some of them in `forecasters.py`: recurrent kernels and biases have the CUDA layout whatever
runs them (`slstm/cell.py`); the group norm's weight is stored as w and applied as 1 + w; early checkpoints have
`block_stack.` in their names (`tirex.py`, `on_load_checkpoint`). The forget gate's pre-activation is bounded by 15
(`slstm/cell.py`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ...bundle.forecast import ForecastSpec
from ...errors import ErrorKind, UserError
from ...modeling.architecture import Architecture, FeedForward, Patches, SLSTMBlock
from ..checkpoint import Checkpoint
from ..files.settings import MAX_BLOCKS, Marks, Settings
from ..files.tensors import LazyTensor
from ..files.weights import Shapes, Weights, missing
from .family import Family, outline_of, plain_factor
from .forecasters import (
    ENDS,
    FFN_FACTOR,
    FFN_MULTIPLE,
    canonical_cell,
    canonical_ends,
    end_shapes,
    ffn_width,
    quantile_levels,
    recurrent_tensors,
)

FORGET_CLAMP = 15.0
_OLD = "block_stack."
_KERNEL = "slstm_layer.slstm_cell._recurrent_kernel_"
_ANCHOR = re.compile(rf"(?P<root>(?:.*?\.)??)(?:block_stack\.)?blocks\.\d+\.{re.escape(_KERNEL)}")
_MODEL_KEYS = frozenset({"input_patch_size", "output_patch_size", "quantiles", "block_kwargs", "input_ff_dim"})
_BLOCK_KEYS = frozenset({"embedding_dim", "num_heads", "num_blocks", "ffn_proj_factor", "num_states", "num_gates"})


@dataclass(frozen=True)
class _Sizes:
    """What every shape follows from."""

    dim: int
    heads: int
    blocks: int
    ffn_dim: int
    patch: int
    hidden: int
    quantiles: int


def roots(names: Collection[str]) -> list[str]:
    return list(dict.fromkeys(match["root"] for name in names if (match := _ANCHOR.fullmatch(name))))


def outline(weights: Weights) -> str:
    return outline_of(_without_stack(weights), "out_norm.weight", "")


def read(weights: Weights, settings: Settings) -> Checkpoint:
    """Understand the tensors, hold the settings against them, and rename."""
    notes = _check_settings(settings)
    weights = _without_stack(weights)
    sizes = _sizes(weights)
    weights.require(_expected(sizes))
    for key, keys in (("model_config.quantiles", settings.below("model_config")), ("train_ctx_len", settings)):
        if key.split(".")[-1] not in keys:
            raise UserError(
                ErrorKind.checkpoint,
                f"{weights.path} has no {key}, and weights do not tell it. Pass hyper_parameters as TiRex's own "
                "model.ckpt has them with --config, or say what is missing: --set train_ctx_len=2048 "
                "--set 'model_config.quantiles=[0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9]'",
            )
    patches = _patches(settings, sizes.patch, sizes.hidden)
    if len(patches.quantiles) != sizes.quantiles:
        evidence = f"{sizes.quantiles} quantiles of {sizes.patch} points: output_patch_embedding"
        raise settings.below("model_config").conflict("quantiles", sizes.quantiles, evidence)
    _agree(settings, sizes)
    return Checkpoint.of(
        weights,
        family=FAMILY.name,
        architecture=_architecture(sizes, patches),
        tensors=_canonical(weights.tensors, sizes),
        config=_upstream_config(sizes, patches, settings),
        upstream=weights.tensors,
        notes=notes,
    )


def _without_stack(weights: Weights) -> Weights:
    """The tensors without what early checkpoints have in their names, as upstream takes it out."""
    names: dict[str, str] = {}
    for name in weights.tensors:
        plain = name.replace(_OLD, "")
        if plain in names:
            raise UserError(
                ErrorKind.checkpoint, f"{weights.path}: {names[plain]} and {name} are one tensor of TiRex. Save one."
            )
        names[plain] = name
    return weights.renamed(names)


def _sizes(weights: Weights) -> _Sizes:
    indices = {int(match[1]) for name in weights.tensors if (match := re.match(r"blocks\.(\d+)\.", name))}
    if indices != set(range(len(indices))):
        gap = next(index for index in range(len(indices)) if index not in indices)
        raise missing(weights, [f"blocks.{gap}.{_KERNEL}"])
    (dim,) = weights.shape("out_norm.weight", 1)
    heads = weights.shape(f"blocks.0.{_KERNEL}", 3)[0]
    hidden, both = weights.shape(f"{ENDS['patch_in']}.hidden_layer.weight", 2)
    out = (
        weights.shape(f"{ENDS['patch_out']}.hidden_layer.weight", 2)[0],
        weights.shape(f"{ENDS['patch_out']}.output_layer.weight", 2),
    )
    ffn_dim = weights.shape("blocks.0.ffn.proj_up.weight", 2)[0]
    faults = {
        f"blocks.0.{_KERNEL}: {heads} heads do not divide a width of {dim}": dim % heads,
        f"{ENDS['patch_in']}: an odd width of {both}, which is not values and their mask": both % 2,
        f"{ENDS['patch_out']}: {out[1][0]} outputs are not quantiles of {both // 2} points": out[1][0]
        % (both // 2 or 1),
        f"blocks.0.ffn.proj_up.weight: a width of {ffn_dim}, not a multiple of {FFN_MULTIPLE}": ffn_dim % FFN_MULTIPLE,
    }
    for fault, rest in faults.items():
        if rest:
            raise UserError(
                ErrorKind.checkpoint,
                f"{weights.path}: {fault}. The file is damaged, or its model is a variant that is not supported.",
            )
    return _Sizes(dim, heads, len(indices), ffn_dim, both // 2, hidden, out[1][0] // (both // 2))


def _expected(sizes: _Sizes) -> Shapes:
    """The shape of each tensor, by upstream's name."""
    dim, width = sizes.dim, sizes.dim // sizes.heads
    shapes: Shapes = {"out_norm.weight": [(dim,)]}
    shapes |= end_shapes("patch_in", 2 * sizes.patch, sizes.hidden, dim)
    shapes |= end_shapes("patch_out", dim, sizes.hidden, sizes.quantiles * sizes.patch)
    for index in range(sizes.blocks):
        at, layer = f"blocks.{index}.", f"blocks.{index}.slstm_layer."
        shapes |= {f"{at}{name}.weight": [(dim,)] for name in ("norm_slstm", "norm_ffn", "slstm_layer.group_norm")}
        shapes |= {f"{layer}{gate}gate.weight": [(sizes.heads, width, width)] for gate in "fizo"}
        shapes[f"{at}{_KERNEL}"] = [(sizes.heads, width, 4 * width)]
        shapes[f"{layer}slstm_cell._bias_"] = [(4 * dim,)]
        shapes |= {f"{at}ffn.{name}.weight": [(sizes.ffn_dim, dim)] for name in ("proj_up_gate", "proj_up")}
        shapes[f"{at}ffn.proj_down.weight"] = [(dim, sizes.ffn_dim)]
    return shapes


def _canonical(upstream: Mapping[str, LazyTensor], sizes: _Sizes) -> dict[str, LazyTensor]:
    """Tensors under the names and in the layouts of `Model`."""
    heads, width = sizes.heads, sizes.dim // sizes.heads
    tensors = {"norm.weight": upstream["out_norm.weight"], **canonical_ends(upstream)}
    for index in range(sizes.blocks):
        at = f"blocks.{index}."
        own = {name.removeprefix(at): tensor for name, tensor in upstream.items() if name.startswith(at)}
        tensors |= {f"{at}{name}": tensor for name, tensor in block_tensors(own, heads, width).items()}
    return tensors


def block_tensors(upstream: Mapping[str, LazyTensor], heads: int, width: int) -> dict[str, LazyTensor]:
    """Tensors of one block, of so many heads of this width, under the names and in the layouts of `ResidualBlock`."""
    layer = "slstm_layer."
    own = {name.removeprefix(layer): tensor for name, tensor in upstream.items() if name.startswith(layer)}
    return {
        "norm.weight": upstream["norm_slstm.weight"],
        **{f"slstm.{name}": tensor for name, tensor in layer_tensors(own, heads, width).items()},
        "ffn_norm.weight": upstream["norm_ffn.weight"],
        "ffn.proj_gate.weight": upstream["ffn.proj_up_gate.weight"],
        "ffn.proj_up.weight": upstream["ffn.proj_up.weight"],
        "ffn.proj_down.weight": upstream["ffn.proj_down.weight"],
    }


def layer_tensors(upstream: Mapping[str, LazyTensor], heads: int, width: int) -> dict[str, LazyTensor]:
    """The same of its sLSTM layer, for `SLSTMLayer`."""
    return {
        **canonical_cell(upstream, "", "slstm_cell._recurrent_kernel_", "slstm_cell._bias_", "", heads, width),
        # 1 + w, exactly: float64, whatever the dtype of w, to be rounded once where it is used.
        "head_norm.weight": upstream["group_norm.weight"].map(lambda w: 1.0 + w.double()),
    }


def cell_tensors(upstream: Mapping[str, LazyTensor], heads: int, width: int) -> dict[str, LazyTensor]:
    """R and b of its cell."""
    return recurrent_tensors(upstream["_recurrent_kernel_"], upstream["_bias_"], heads, width)


def block_of(heads: int, ffn_dim: int) -> SLSTMBlock:
    """What a block is, of so many heads and a feed-forward network of this width."""
    return SLSTMBlock(
        num_heads=heads,
        conv_kernel=0,
        feed_forward=FeedForward(ffn_dim, "swish"),
        norm="rms_norm",
        norm_eps=1e-6,
        forget_clamp=FORGET_CLAMP,
    )


def _architecture(sizes: _Sizes, patches: Patches) -> Architecture:
    return Architecture(
        embedding_dim=sizes.dim,
        blocks=(block_of(sizes.heads, sizes.ffn_dim),) * sizes.blocks,
        vocab_size=None,
        tied_head=False,
        has_head=False,
        final_norm="rms_norm",
        final_norm_eps=1e-6,
        patches=patches,
    )


# --- settings -------------------------------------------------------------------------------------------------------


def _check_settings(settings: Settings) -> tuple[str, ...]:
    """Refuse what is not understood; returns a note of what upstream takes no notice of."""
    settings.only(FAMILY.keys, FAMILY.configurations)
    model = settings.below("model_config")
    model.only(_MODEL_KEYS, "TiRexZeroConfig")
    block = model.below("block_kwargs")
    for key, value in (("num_states", 4), ("num_gates", 4)):
        if block.integer(key, value) != value:
            raise block.error(key, f"expected {value}, as the sLSTM has it")
    return block.ignored(frozenset(str(key) for key in block.values if key not in _BLOCK_KEYS))


def _patches(settings: Settings, patch: int, hidden: int) -> Patches:
    model = settings.below("model_config")
    levels = quantile_levels(model)
    context = settings.integer("train_ctx_len")
    if context % patch:
        raise settings.error("train_ctx_len", f"expected a multiple of the patch, which has {patch} points")
    return Patches(patch, hidden, levels, context)


def _agree(settings: Settings, sizes: _Sizes) -> None:
    model = settings.below("model_config")
    block = model.below("block_kwargs")
    for key in ("input_patch_size", "output_patch_size"):
        model.agree(key, sizes.patch, "input_patch_embedding.hidden_layer.weight")
    model.agree("input_ff_dim", sizes.hidden, "input_patch_embedding.hidden_layer.weight")
    block.agree("embedding_dim", sizes.dim, "out_norm.weight")
    block.agree("num_heads", sizes.heads, _KERNEL)
    block.agree("num_blocks", sizes.blocks, "blocks")
    if block.values and ffn_width(sizes.dim, factor := block.positive("ffn_proj_factor", FFN_FACTOR)) != sizes.ffn_dim:
        raise UserError(
            ErrorKind.checkpoint,
            f"{settings.source}: ffn_proj_factor {factor} gives a feed-forward network of width "
            f"{ffn_width(sizes.dim, factor)}, but blocks.0.ffn.proj_up.weight has {sizes.ffn_dim}. Correct the "
            "configuration, or give the one that belongs to these weights with --config.",
        )


def _upstream_config(sizes: _Sizes, patches: Patches, settings: Settings) -> dict[str, object]:
    """What `TiRexZero` is made of, complete."""
    told = settings.below("model_config").below("block_kwargs").positive("ffn_proj_factor", FFN_FACTOR)
    factor, _ = plain_factor(
        sizes.dim, sizes.ffn_dim, [(told, FFN_MULTIPLE), (sizes.ffn_dim / sizes.dim, FFN_MULTIPLE)], ffn_width
    )
    return {
        "model_config": {
            "input_patch_size": sizes.patch,
            "output_patch_size": sizes.patch,
            "quantiles": list(patches.quantiles),
            "input_ff_dim": sizes.hidden,
            "block_kwargs": {
                "embedding_dim": sizes.dim,
                "num_heads": sizes.heads,
                "num_blocks": sizes.blocks,
                "ffn_proj_factor": factor,
            },
        },
        "train_ctx_len": patches.context,
    }


def from_settings(settings: Settings) -> tuple[Architecture, dict[str, object]]:
    """The architecture that upstream builds from a configuration; only `ffn_proj_factor` has a default."""
    _check_settings(settings)
    model = settings.below("model_config")
    block = model.below("block_kwargs")
    patch, hidden = model.integer("input_patch_size"), model.integer("input_ff_dim")
    if model.integer("output_patch_size") != patch:
        raise model.error("output_patch_size", f"expected that of the input, {patch}")
    patches = _patches(settings, patch, hidden)
    dim, heads = block.integer("embedding_dim"), block.integer("num_heads")
    if dim % heads:
        raise block.error("num_heads", f"the embedding width {dim} is not a multiple of it")
    width = ffn_width(dim, block.positive("ffn_proj_factor", FFN_FACTOR))
    depth = block.integer("num_blocks", maximum=MAX_BLOCKS)
    sizes = _Sizes(dim, heads, depth, width, patch, hidden, len(patches.quantiles))
    return _architecture(sizes, patches), _upstream_config(sizes, patches, settings)


def forecast(config: Mapping[str, Any]) -> ForecastSpec:
    """How its bundles are fed (`tirex/models/patcher.py`, `StandardScaler`; `tirex.py`, `_forecast_quantiles`)."""
    model = config["model_config"]
    return ForecastSpec(model["input_patch_size"], config["train_ctx_len"], tuple(model["quantiles"]))


FAMILY = Family(
    name="tirex",
    models="TiRexZero of the tirex-ts package",
    configurations="TiRexZero's hyper_parameters (model_config, train_ctx_len)",
    marks=Marks(keys=(frozenset({"model_config", "train_ctx_len"}),)),
    keys=frozenset({"model_config", "train_ctx_len"}),
    packages=("tirex-ts",),
    roots=roots,
    outline=outline,
    read=read,
    from_settings=from_settings,
    forecast=forecast,
)
