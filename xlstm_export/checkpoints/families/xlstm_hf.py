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
from . import mlstm_large as large
from .family import Family, join_tables

DEFAULTS = {"vocab_size": 50304, "embedding_dim": 4096, "num_blocks": 32, "num_heads": 8, "ffn_proj_factor": 2.667}
SPELLINGS = {"hidden_size": "embedding_dim", "num_hidden_layers": "num_blocks"}
EMBEDDING = "backbone.embeddings.weight"


def roots(names: Collection[str]) -> list[str]:
    return large.roots(names, hugging_face=True)


def read(weights: Weights, settings: Settings) -> Checkpoint:
    if not settings.given:
        raise UserError(
            ErrorKind.checkpoint,
            f"{weights.path} has no configuration, and weights do not tell the soft caps and epsilons of an xLSTM "
            "model. Put its config.json beside the weights, or pass it with --config.",
        )
    respelled = _respelled(settings)
    weights, tied = join_tables(weights, EMBEDDING, large.TABLES[1], settings, "tie_word_embeddings")
    weights = weights.renamed({large.TABLES[0] if name == EMBEDDING else name: name for name in weights.tensors})
    if "backbone.out_norm.weight" not in weights:
        raise missing(weights, ["backbone.out_norm.weight"])
    architecture, fused = large.architecture_of(weights, respelled, tied)
    shapes = large.expected(architecture, fused)
    shapes.pop("backbone.out_norm.bias", None)
    weights.require(shapes)
    settings.agree("hidden_size", architecture.embedding_dim, f"width of {EMBEDDING}")
    settings.agree("num_hidden_layers", len(architecture.blocks), "backbone.blocks with tensors")
    large.agree(respelled, architecture)
    return Checkpoint.of(
        weights,
        family=FAMILY.name,
        architecture=architecture,
        tensors=large.canonical(weights.tensors, architecture, fused),
        config=_hf_config(architecture, respelled, fused),
        upstream={EMBEDDING if name == large.TABLES[0] else name: t for name, t in weights.tensors.items()},
    )


def _respelled(settings: Settings) -> Settings:
    """The settings under the names of `xLSTMLargeConfig`; both spellings of a key must agree."""
    if settings.values.get("model_type", "xlstm") != "xlstm":
        raise settings.error("model_type", 'expected "xlstm"')
    if settings.values.get("quantization_config"):
        raise settings.error("quantization_config", "quantised checkpoints are not supported; give the original")
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


def _hf_config(architecture: Architecture, settings: Settings, fused: bool) -> dict[str, object]:
    """Fields of `transformers.xLSTMConfig`."""
    config = large.upstream_config(architecture, settings, fused)
    spelled = {theirs: config[ours] for theirs, ours in SPELLINGS.items()}
    return {"model_type": "xlstm", **config, **spelled, "tie_word_embeddings": architecture.tied_head}


def from_settings(settings: Settings) -> tuple[Architecture, dict[str, object]]:
    """The architecture that transformers builds from a configuration, with its defaults."""
    respelled = _respelled(settings)
    respelled = dataclasses.replace(respelled, values=DEFAULTS | dict(respelled.values) | {"add_out_norm": True})
    architecture, fused = large.architecture_from(respelled)
    architecture = dataclasses.replace(architecture, final_norm_bias=False)
    return architecture, _hf_config(architecture, respelled, fused)


FAMILY = Family(
    name="xlstm-hf",
    models="xLSTMForCausalLM of transformers",
    configurations="transformers' xLSTMConfig",
    marks=Marks(keys=(frozenset(SPELLINGS),), model_type="xlstm"),
    packages=("transformers",),
    roots=roots,
    outline=large.outline,
    read=read,
    from_settings=from_settings,
)
