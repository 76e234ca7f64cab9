"""Family `xlstm-hf`: `transformers.xLSTMForCausalLM`, the architecture of xLSTM-7B under other names.

Two keys have two spellings each, of which converters write only one; an explicit key wins over a default. The
model always has a final norm, without bias, whatever `add_out_norm` and `use_bias` say (`modeling_xlstm.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from ...errors import ErrorKind, UserError
from ...modeling.architecture import Architecture
from ..checkpoint import Checkpoint
from ..files.settings import Marks, Settings
from ..files.weights import Weights, missing
from ..quantised import read_quantised
from . import mlstm_large as large
from .family import Family, Tables, join_tables

DEFAULTS = {"vocab_size": 50304, "embedding_dim": 4096, "num_blocks": 32, "num_heads": 8, "ffn_proj_factor": 2.667}
SPELLINGS = {"hidden_size": "embedding_dim", "num_hidden_layers": "num_blocks"}
EMBEDDING = "backbone.embeddings.weight"
OLD_NAMES = {"query": "q", "key": "k", "value": "v"}
"""Of the projections, as transformers 4.54 had them where the `xlstm` package was not installed."""
TABLES = Tables(EMBEDDING, large.HEAD, tied="tie_word_embeddings", backbone="backbone")
BACKBONE_CLASS = "xLSTMModel"
"""In `architectures` of a configuration: the model without its head, whose output is hidden states."""


def roots(names: Collection[str]) -> list[str]:
    return large.roots(names, hugging_face=True)


def read(weights: Weights, settings: Settings) -> Checkpoint:
    if not settings.given:
        raise UserError(
            ErrorKind.checkpoint,
            f"{weights.path} has no configuration, and weights do not tell the soft caps and epsilons of an xLSTM "
            "model. Put its config.json beside the weights, or pass it with --config.",
        )
    weights, settings, quantization = read_quantised(weights, settings)
    respelled, tied, notes = _respelled(settings), False, tuple[str, ...]()
    whole = not large.is_backbone(weights)
    weights = _renamed(large.with_backbone(weights))
    if whole:
        weights, tied, notes = _join(weights, settings)
    weights = weights.renamed({large.EMBEDDING if name == EMBEDDING else name: name for name in weights.tensors})
    if "backbone.out_norm.weight" not in weights:
        raise missing(weights, ["backbone.out_norm.weight"])
    model = large.from_weights(weights, respelled, tied)
    shapes = large.expected(model)
    shapes.pop("backbone.out_norm.bias", None)
    weights.require(shapes)
    settings.agree("hidden_size", model.architecture.embedding_dim, f"width of {EMBEDDING}")
    settings.agree("num_hidden_layers", len(model.architecture.blocks), "backbone.blocks with tensors")
    large.agree(respelled, model)
    upstream = {EMBEDDING if name == large.EMBEDDING else name: t for name, t in weights.tensors.items()}
    return Checkpoint.of(
        weights,
        family=FAMILY.name,
        architecture=model.architecture,
        tensors=large.canonical(weights.tensors, model),
        config=_hf_config(model, respelled),
        upstream=upstream if whole else large.without_backbone(upstream),
        notes=notes,
        quantization=quantization,
    )


def _renamed(weights: Weights) -> Weights:
    """The tensors under the names that transformers gives them today."""

    def new(name: str) -> str:
        at, layer, rest = name.partition(".mlstm_layer.")
        old, _, kind = rest.partition(".")
        return f"{at}{layer}{OLD_NAMES.get(old, old)}.{kind}" if layer else name

    return weights.renamed({new(name): name for name in weights.tensors})


def _join(weights: Weights, settings: Settings) -> tuple[Weights, bool, tuple[str, ...]]:
    """As `join_tables`. But two matrices that differ are two, whatever `tie_word_embeddings` says.

    transformers 5 writes it and ties nothing: its own class then computes with both.
    """
    both, told = EMBEDDING in weights and large.HEAD in weights, settings.boolean(TABLES.tied, False)
    weights, tied = join_tables(weights, TABLES, settings.without(TABLES.tied) if both else settings)
    if not told or tied:
        return weights, tied, ()
    says = f"{settings.source} says {TABLES.tied} = true, but embedding and head differ"
    return weights, False, (f"{says}: both are used, as transformers does.",)


def _respelled(settings: Settings) -> Settings:
    """The settings under the names of `xLSTMLargeConfig`; both spellings of a key must agree."""
    if settings.values.get("model_type", "xlstm") != "xlstm":
        raise settings.error("model_type", 'expected "xlstm"')
    values = dict(settings.values)
    for theirs, ours in SPELLINGS.items():
        if values.get(theirs) is None:
            values.pop(theirs, None)
            continue
        if values.get(ours) is not None and values[ours] != values[theirs]:
            raise UserError(
                ErrorKind.checkpoint,
                f"{settings.source} says both {theirs} = {values[theirs]} and {ours} = {values[ours]}, which are two "
                "names of one setting. Correct the one that is wrong.",
            )
        values[ours] = values.pop(theirs)
    caps = ("gate_soft_cap", "output_logit_soft_cap")  # null means none
    return dataclasses.replace(settings, values={k: v for k, v in values.items() if v is not None or k in caps})


def _hf_config(model: large.Large, settings: Settings) -> dict[str, object]:
    """Fields of `transformers.xLSTMConfig`."""
    config = large.upstream_config(model, settings)
    spelled = {theirs: config[ours] for theirs, ours in SPELLINGS.items()}
    if not model.architecture.has_head:
        del config["output_logit_soft_cap"]  # transformers takes no null
        config["architectures"] = [BACKBONE_CLASS]
    return {"model_type": "xlstm", **config, **spelled, "tie_word_embeddings": model.architecture.tied_head}


def from_settings(settings: Settings) -> tuple[Architecture, dict[str, object]]:
    """The architecture that transformers builds from a configuration, with its defaults."""
    respelled = _respelled(settings)
    respelled = dataclasses.replace(respelled, values=DEFAULTS | dict(respelled.values) | {"add_out_norm": True})
    model = large.from_settings(respelled)
    architecture = dataclasses.replace(model.architecture, final_norm_bias=False)
    if settings.values.get("architectures") == [BACKBONE_CLASS]:
        architecture = dataclasses.replace(architecture, has_head=False, tied_head=False, logit_soft_cap=0.0)
    return architecture, _hf_config(dataclasses.replace(model, architecture=architecture), respelled)


FAMILY = Family(
    name="xlstm-hf",
    models="xLSTMForCausalLM and xLSTMModel of transformers",
    configurations="transformers' xLSTMConfig",
    marks=Marks(keys=(frozenset(SPELLINGS),), model_type="xlstm"),
    keys=large.KEYS | SPELLINGS.keys(),
    packages=("transformers",),
    roots=roots,
    outline=large.outline,
    read=read,
    from_settings=from_settings,
)
