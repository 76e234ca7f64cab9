"""Family `tirex2`: TiRex-2, the forecaster of the `tirex-2` package (arXiv:2607.01204), of single series.

A series alone runs forward only: the cells that read known covariates backwards, what combines both directions and the
attention between variates (`model/component/bi_xlstm.py`, `variate_mixing_block.py`, `attention_block.py`) leave it as
it is, so that they are checked here and not exported. What is left are the blocks of xLSTM-7B and sLSTM blocks with
their feed-forward network, whose constants are upstream's defaults (`xlstm_mixed_config.py`) and no settings.

Upstream's quirks end here and in `forecasters.py`: a parameter has several names (`_state_dict.py`), of which a file of
safetensors has one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ...bundle.forecast import Calibration, Differencing, ForecastSpec, Scaler
from ...errors import ErrorKind, UserError
from ...modeling.architecture import (
    Activation,
    Architecture,
    Block,
    FeedForward,
    MLSTMLargeBlock,
    Patches,
    SLSTMBlock,
)
from ..checkpoint import Checkpoint
from ..files.settings import MAX_BLOCKS, Marks, Settings
from ..files.tensors import LazyTensor
from ..files.weights import Shapes, Weights
from .family import Family, outline_of, same_values
from .forecasters import canonical_cell, canonical_ends, end_shapes, ffn_width, quantile_levels

_ANCHOR = re.compile(r"(?P<root>(?:.*?\.)??)stack\.\d+\.time_mixer\.(?:fwd|rev)_cell\..*")
_ALIASES = {".rev_cell.": ".fwd_cell.", ".recurrent_kernel": "._recurrent_kernel_"}
"""Parts of upstream's other names of a parameter."""
_NORM_EPS = _CELL_EPS = 1e-6
_GATE_SOFT_CAP = 15.0
_ACTIVATIONS: dict[str, Activation] = {
    "GELU": "gelu",
    "ReLU": "relu",
    "SELU": "selu",
    "SiLU": "swish",
    "Sigmoid": "sigmoid",
}
"""Of `torch.nn`."""
_MIXERS = ("bi-slstm", "bi-mlstm")
_NEEDED = ("stack_config", "tokenizer_cfg", "scaler_cfg", "h_expand", "act_func", "quantiles")
_WITHOUT_EFFECT = frozenset({"device", "matmul_precision", "postprocessor_cfg"})
_CALIBRATION = Calibration(band_scale=0.90, band_exponent=0.52)
_DIFFERENCING = Differencing(score=1.5, r_squared=0.87, band=Calibration(band_scale=1.68, band_exponent=0.51))
"""`PostProcessorConfig` (`model/component/postprocessor.py`), which no configuration changes."""


@dataclass(frozen=True)
class _Sizes:
    """What every shape follows from."""

    dim: int
    patch: int
    hidden: int
    out_hidden: int
    quantiles: int
    blocks: tuple[Block, ...]
    normed: bool
    """Whether there is a norm after the blocks."""


def roots(names: Collection[str]) -> list[str]:
    return list(dict.fromkeys(match["root"] for name in names if (match := _ANCHOR.fullmatch(name))))


def outline(weights: Weights) -> str:
    blocks = weights.renamed({name.replace("stack.", "blocks.", 1): name for name in weights.tensors})
    return outline_of(blocks, "blocks.0.time_mixer.norm_lstm.weight", "")


def read(weights: Weights, settings: Settings) -> Checkpoint:
    """Understand the tensors, hold the settings against them, and rename."""
    if not settings.given:
        raise UserError(
            ErrorKind.checkpoint,
            f"{weights.path} has no configuration, and weights do not tell window, quantiles and scaling of TiRex-2. "
            "Put its config.json beside the weights, or pass it with --config.",
        )
    architecture, config = from_settings(settings)
    sizes = _sizes(settings)
    weights = _without_aliases(weights)
    _agree(settings, weights, sizes)
    weights.require(_expected(sizes))
    return Checkpoint.of(
        weights,
        family=FAMILY.name,
        architecture=architecture,
        tensors=_canonical(weights.tensors, sizes),
        config=config,
        upstream=_with_aliases(weights.tensors),
        notes=settings.ignored(_WITHOUT_EFFECT),
    )


def _without_aliases(weights: Weights) -> Weights:
    """The tensors, each under one name; refuses names of one parameter with different values."""
    names: dict[str, str] = {}
    for name in weights.tensors:
        plain = name
        for other, first in _ALIASES.items():
            plain = plain.replace(other, first)
        weights.require_readable(name)
        if plain in names and not same_values(weights.tensors[name], weights.tensors[names[plain]]):
            raise UserError(
                ErrorKind.checkpoint,
                f"{weights.path}: {names[plain]} and {name} are one parameter of TiRex-2, and differ. "
                "The file is damaged, or its model is a variant that is not supported.",
            )
        names.setdefault(plain, name)
    return weights.renamed(names)


def _with_aliases(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """As upstream loads them: under every name."""
    upstream = dict(tensors)
    for other, first in _ALIASES.items():
        upstream |= {name.replace(first, other): tensor for name, tensor in upstream.items()}
    return upstream


def _agree(settings: Settings, weights: Weights, sizes: _Sizes) -> None:
    """What the settings say against a few tensors, to name the setting that is wrong."""
    found = {match[1] for name in weights.tensors if (match := re.match(r"stack\.(\d+)\.", name))}
    settings.agree("num_blocks", len(found), "stack")
    settings.agree("embedding_dim", weights.shape("stack.0.time_mixer.norm_lstm.weight", 1)[0], "norm_lstm")
    hidden, both = weights.shape("input_patch_embedding.hidden_layer.weight", 2)
    settings.agree("input_ff_dim", hidden, "input_patch_embedding.hidden_layer")
    settings.agree("input_patch_size", both // 2, "input_patch_embedding.hidden_layer")
    rows = weights.shape("output_patch_embedding.output_layer.weight", 2)[0]
    if rows != sizes.quantiles * sizes.patch:
        raise settings.conflict("quantiles", rows // sizes.patch, f"{rows} rows of output_patch_embedding.output_layer")


def _expected(sizes: _Sizes) -> Shapes:
    """The shape of each tensor, by the first of upstream's names."""
    dim = sizes.dim
    shapes: Shapes = {"stack_out_norm.weight": [(dim,)]} if sizes.normed else {}
    shapes |= end_shapes("patch_in", 2 * sizes.patch, sizes.hidden, dim)
    shapes |= end_shapes("patch_out", dim, sizes.out_hidden, sizes.quantiles * sizes.patch)
    for index, block in enumerate(sizes.blocks):
        mixer, cell = f"stack.{index}.time_mixer.", f"stack.{index}.time_mixer.fwd_cell."
        hidden = ffn_width(dim)
        shapes |= {f"{mixer}{name}.weight": [(dim,)] for name in ("norm_lstm", "norm_ffn")}
        shapes |= {f"{mixer}ffn.{name}.weight": [(hidden, dim)] for name in ("proj_up_gate", "proj_up")}
        shapes[f"{mixer}ffn.proj_down.weight"] = [(dim, hidden)]
        shapes[f"{mixer}combination.weight"] = [(dim, 2 * dim)]
        heads = block.num_heads
        if isinstance(block, SLSTMBlock):
            width = dim // heads
            shapes |= {f"{cell}{gate}gate.weight": [(heads, width, width)] for gate in "fizo"}
            shapes[f"{cell}_recurrent_kernel_"] = [(heads, width, 4, width)]
            shapes[f"{cell}_bias_"] = [(heads, 4, width)]
            shapes[f"{cell}group_norm.weight"] = [(dim,)]
        elif isinstance(block, MLSTMLargeBlock):
            shapes |= {f"{cell}{name}.weight": [(block.qk_dim, dim)] for name in "qk"}
            shapes |= {f"{cell}{name}.weight": [(dim, dim)] for name in ("v", "ogate_preact", "out_proj")}
            for gate in ("igate_preact", "fgate_preact"):
                shapes |= {f"{cell}{gate}.weight": [(heads, dim)], f"{cell}{gate}.bias": [(heads,)]}
            shapes[f"{cell}multihead_norm.weight"] = [(dim,)]
        shapes |= _variate_mixer(f"stack.{index}.variate_mixer.", dim)
    return shapes


def _variate_mixer(at: str, dim: int) -> Shapes:
    """Of the attention between variates, which a single series does not pass through."""
    shapes: Shapes = {f"{at}{norm}.weight": [(dim,)] for norm in ("norm_attn", "norm_ffn")}
    shapes |= {f"{at}attn.W{name}.weight": [(dim, dim)] for name in "KQVO"}
    return shapes | {f"{at}ffn.wi.weight": [(4 * dim, dim)], f"{at}ffn.wo.weight": [(dim, 4 * dim)]}


def _canonical(upstream: Mapping[str, LazyTensor], sizes: _Sizes) -> dict[str, LazyTensor]:
    """Tensors under the names and in the layouts of `Model`."""
    tensors = canonical_ends(upstream)
    if sizes.normed:
        tensors["norm.weight"] = upstream["stack_out_norm.weight"]
    for index, block in enumerate(sizes.blocks):
        at, mixer, heads = f"blocks.{index}.", f"stack.{index}.time_mixer.", block.num_heads
        cell = f"{mixer}fwd_cell."
        renamed = {
            "norm_lstm": "norm",
            "norm_ffn": "ffn_norm",
            "ffn.proj_up_gate": "ffn.proj_gate",
            "ffn.proj_up": "ffn.proj_up",
            "ffn.proj_down": "ffn.proj_down",
        }
        tensors |= {f"{at}{ours}.weight": upstream[f"{mixer}{theirs}.weight"] for theirs, ours in renamed.items()}
        if isinstance(block, SLSTMBlock):
            kernel, bias = f"{cell}_recurrent_kernel_", f"{cell}_bias_"
            tensors |= canonical_cell(upstream, cell, kernel, bias, f"{at}slstm.", heads, sizes.dim // heads)
            tensors[f"{at}slstm.head_norm.weight"] = upstream[f"{cell}group_norm.weight"]
            continue
        renamed = {name: name for name in ("q", "k", "v", "out_proj")} | {"multihead_norm": "head_norm"}
        renamed |= {f"{gate}gate_preact": f"{gate}gate" for gate in "ifo"}
        tensors |= {f"{at}mlstm.{ours}.weight": upstream[f"{cell}{theirs}.weight"] for theirs, ours in renamed.items()}
        tensors |= {f"{at}mlstm.{gate}gate.bias": upstream[f"{cell}{gate}gate_preact.bias"] for gate in "if"}
    return tensors


# --- settings -------------------------------------------------------------------------------------------------------


def from_settings(settings: Settings) -> tuple[Architecture, dict[str, object]]:
    """The architecture that upstream builds from a configuration, and that configuration, complete."""
    settings.only(FAMILY.keys, FAMILY.configurations)
    if absent := [key for key in _NEEDED if key not in settings]:
        raise UserError(ErrorKind.checkpoint, f"{settings.source} has no {settings.section}{absent[0]}. Add it.")
    sizes, norm = _sizes(settings), settings.below("stack_out_norm_config")
    tokenizer, context = settings.below("tokenizer_cfg"), settings.integer("context_len")
    norm.only(frozenset({"eps", "use_rmsnorm"}), "stack_out_norm_config")
    for section, key in (
        (settings, "output_patch_size"),
        *((tokenizer, key) for key in ("input_patch_size", "output_patch_size", "input_patch_stride")),
    ):
        if section.integer(key) != sizes.patch:
            raise section.error(key, f"expected that of the input, {sizes.patch}: other patches are not supported")
    for key in ("context_len", "future_len"):
        if settings.integer(key) % sizes.patch:
            raise settings.error(key, f"expected a multiple of the patch, which has {sizes.patch} points")
    if settings.boolean("tta_sign_flip", False):
        raise settings.error(
            "tta_sign_flip",
            "forecasts that are averaged with those of the negated series are not supported. Leave that out with "
            "--set tta_sign_flip=false, and average yourself",
        )
    architecture = Architecture(
        embedding_dim=sizes.dim,
        blocks=sizes.blocks,
        vocab_size=None,
        tied_head=False,
        has_head=False,
        final_norm="rms_norm" if sizes.normed else None,
        final_norm_eps=norm.positive("eps", 1e-7),
        patches=Patches(
            sizes.patch,
            sizes.hidden,
            quantile_levels(settings),
            context,
            activation=_activation(settings),
            out_hidden_dim=sizes.out_hidden,
        ),
    )
    return architecture, _upstream_config(settings)


def _sizes(settings: Settings) -> _Sizes:
    dim = settings.integer("embedding_dim")
    return _Sizes(
        dim=dim,
        patch=settings.integer("input_patch_size"),
        hidden=settings.integer("input_ff_dim"),
        out_hidden=int(dim * settings.positive("h_expand", 1.0)),
        quantiles=len(quantile_levels(settings)),
        blocks=tuple(_block(template, dim) for _, template in _recipe(settings)),
        normed=settings.values.get("stack_out_norm_config") is not None,
    )


def _recipe(settings: Settings) -> list[tuple[str, Settings]]:
    """The template of each block, with its name."""
    count, stack = settings.integer("num_blocks", maximum=MAX_BLOCKS), settings.below("stack_config")
    stack.only(frozenset({"templates", "recipe"}), "MultivariateStackConfig")
    recipe, templates = stack.values.get("recipe"), stack.below("templates")
    if not isinstance(recipe, list | tuple) or len(recipe) != count:
        raise stack.error("recipe", f"expected the names of the templates of {count} blocks")
    if unknown := [name for name in recipe if not isinstance(name, str) or name not in templates]:
        raise stack.error("recipe", f"{unknown[0]!r} is none of the templates {', '.join(map(str, templates.values))}")
    return [(name, templates.below(name)) for name in recipe]


def _block(template: Settings, dim: int) -> Block:
    template.only(frozenset({"time_mixer", "variate_mixer", "dropout", "eps"}), "MultivariateBlockConfig")
    mixer, variates = template.below("time_mixer"), template.below("variate_mixer")
    mixer.only(
        frozenset({"model_type", "embedding_dim", "num_heads", "num_slstm_heads", "device", "rnn_backend"}),
        "TimeMixerConfig",
    )
    variates.only(frozenset({"embedding_dim", "num_heads", "use_flex_attention"}), "VariateMixerConfig")
    for section in (mixer, variates):
        if section.integer("embedding_dim") != dim:
            raise section.error("embedding_dim", f"expected that of the model, {dim}")
    heads, feed_forward = mixer.integer("num_heads", 4), FeedForward(ffn_width(dim), "swish")
    if mixer.choice("model_type", "", _MIXERS) == "bi-slstm":
        told = mixer.values.get("num_slstm_heads")
        heads = heads if told is None else mixer.integer("num_slstm_heads")
        if dim % heads:
            raise mixer.error(
                "num_heads" if told is None else "num_slstm_heads", f"the embedding width {dim} is not a multiple of it"
            )
        return SLSTMBlock(
            num_heads=heads,
            conv_kernel=0,
            feed_forward=feed_forward,
            norm="rms_norm",
            norm_eps=_NORM_EPS,
            head_norm_eps=_NORM_EPS,
        )
    if dim // 2 < heads or dim % heads or dim // 2 % heads:
        raise mixer.error("num_heads", f"keys of {dim // 2} and values of {dim} are not multiples of it")
    return MLSTMLargeBlock(
        num_heads=heads,
        qk_dim=dim // 2,
        v_dim=dim,
        gate_soft_cap=_GATE_SOFT_CAP,
        cell_eps=_CELL_EPS,
        norm_eps=_NORM_EPS,
        feed_forward=feed_forward,
    )


def _activation(settings: Settings) -> Activation:
    name = str(settings.values.get("act_func")).removeprefix("torch.nn.")
    if name not in _ACTIVATIONS:
        raise settings.error("act_func", f"expected one of torch.nn's {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _upstream_config(settings: Settings) -> dict[str, object]:
    """What `TiRex2` is made of, complete, on the CPU."""
    scaler, norm = settings.below("scaler_cfg"), settings.below("stack_out_norm_config")
    patch, recipe = settings.integer("input_patch_size"), _recipe(settings)
    templates = {}
    for name, template in recipe:
        mixer, variates = template.below("time_mixer"), template.below("variate_mixer")
        heads = mixer.integer("num_heads", 4)
        told = mixer.values.get("num_slstm_heads")
        templates[name] = {
            "time_mixer": {
                "model_type": mixer.values["model_type"],
                "embedding_dim": mixer.integer("embedding_dim"),
                "num_heads": heads,
                "num_slstm_heads": heads if told is None else mixer.integer("num_slstm_heads"),
            },
            "variate_mixer": {
                "embedding_dim": variates.integer("embedding_dim"),
                "num_heads": variates.integer("num_heads", 4),
            },
            "dropout": 0.0,
            "eps": 1e-6,
        }
    normed = settings.values.get("stack_out_norm_config") is not None
    return {
        "stack_config": {"templates": templates, "recipe": [name for name, _ in recipe]},
        "num_blocks": settings.integer("num_blocks"),
        "embedding_dim": settings.integer("embedding_dim"),
        "input_patch_size": patch,
        "output_patch_size": patch,
        "quantiles": list(quantile_levels(settings)),
        "tokenizer_cfg": dict.fromkeys(("output_patch_size", "input_patch_size", "input_patch_stride"), patch),
        "scaler_cfg": {
            "eps": scaler.positive("eps", 1e-8),
            "use_arcsinh": scaler.boolean("use_arcsinh", False),
            "binaryaware": scaler.boolean("binaryaware", False),
        },
        "h_expand": settings.positive("h_expand", 1.0),
        "context_len": settings.integer("context_len"),
        "future_len": settings.integer("future_len"),
        "input_ff_dim": settings.integer("input_ff_dim"),
        "act_func": str(settings.values["act_func"]),
        "dropout": 0.0,
        "use_qk_norm": settings.boolean("use_qk_norm", True),
        "stack_out_norm_config": {
            "eps": norm.positive("eps", 1e-7),
            "use_rmsnorm": norm.boolean("use_rmsnorm", False),
        }
        if normed
        else None,
        "tta_sign_flip": False,
        "tta_diff": settings.boolean("tta_diff", True),
        "device": "cpu",
    }


def forecast(config: Mapping[str, Any]) -> ForecastSpec:
    """How its bundles are fed (`model/component/scaler.py`, `postprocessor.py`; `model/tirex2.py`, `_predict`)."""
    scaler = config["scaler_cfg"]
    return ForecastSpec(
        patch=config["input_patch_size"],
        context=config["context_len"],
        quantiles=tuple(config["quantiles"]),
        scaler=Scaler(scaler["eps"], scaler["use_arcsinh"], scaler["binaryaware"]),
        horizon=config["future_len"],
        differencing=_DIFFERENCING if config["tta_diff"] else None,
        calibration=_CALIBRATION,
    )


FAMILY = Family(
    name="tirex2",
    models="TiRex2 of the tirex-2 package",
    configurations="TiRex2's config.json",
    marks=Marks(keys=(frozenset({"stack_config", "tokenizer_cfg"}),)),
    keys=frozenset(
        {
            "stack_config",
            "num_blocks",
            "embedding_dim",
            "input_patch_size",
            "output_patch_size",
            "quantiles",
            "tokenizer_cfg",
            "scaler_cfg",
            "h_expand",
            "context_len",
            "future_len",
            "input_ff_dim",
            "act_func",
            "dropout",
            "use_qk_norm",
            "stack_out_norm_config",
            "tta_sign_flip",
            "tta_diff",
        }
    )
    | _WITHOUT_EFFECT,
    packages=("tirex-2", "flashrnn", "mlstm_kernels"),
    roots=roots,
    outline=outline,
    read=read,
    from_settings=from_settings,
    forecast=forecast,
)
