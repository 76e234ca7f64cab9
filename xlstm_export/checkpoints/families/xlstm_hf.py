"""Family `xlstm-hf`: `transformers.xLSTMForCausalLM`, the architecture of `xlstm_large` under other names.

Two keys have two spellings each, of which converters write only one; an explicit key wins over a default. The
model always has a final norm, without bias, whatever `add_out_norm` and `use_bias` say (`modeling_xlstm.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from ...errors import ErrorKind, UserError
from ...modeling.architecture import Architecture
from ..checkpoint import Checkpoint
from ..files.settings import Settings
from ..files.weights import Weights, missing
from .family import Family, join_tables
from .xlstm_large import ANCHOR, TABLES, agree, architecture_from, architecture_of, canonical, expected, select
from .xlstm_large import upstream_config as large_config

FFN_FACTOR = 2.667
DEFAULTS = {"vocab_size": 50304, "embedding_dim": 4096, "num_blocks": 32, "num_heads": 8}
SPELLINGS = {"hidden_size": "embedding_dim", "num_hidden_layers": "num_blocks"}
EMBEDDING = "backbone.embeddings.weight"


def owns_tensors(names: Iterable[str]) -> bool:
    names = list(names)
    return any(ANCHOR.fullmatch(n) for n in names) and any(n.endswith(EMBEDDING) for n in names)


def owns_settings(settings: Settings) -> bool:
    return settings.values.get("model_type") == "xlstm" or set(SPELLINGS) <= settings.values.keys()


def read(weights: Weights, settings: Settings) -> Checkpoint:
    if not settings.given:
        raise UserError(
            ErrorKind.checkpoint,
            f"{weights.path} has no configuration, and weights do not tell the soft caps and epsilons of an xLSTM "
            "model. Put its config.json beside the weights, or pass it with --config.",
        )
    large = _respelled(settings)
    weights = select(weights)
    weights, tied = join_tables(weights, EMBEDDING, TABLES[1], settings, "tie_word_embeddings")
    weights = weights.renamed({TABLES[0] if name == EMBEDDING else name: name for name in weights.tensors})
    if "backbone.out_norm.weight" not in weights:
        raise missing(weights, ["backbone.out_norm.weight"])
    architecture, fused = architecture_of(weights, large, tied, FFN_FACTOR)
    shapes = expected(architecture, fused, weights)
    shapes.pop("backbone.out_norm.bias", None)
    weights.require(shapes)
    settings.agree("hidden_size", architecture.embedding_dim, f"width of {EMBEDDING}")
    settings.agree("num_hidden_layers", len(architecture.blocks), "backbone.blocks with tensors")
    agree(large, architecture, FFN_FACTOR)
    upstream = {EMBEDDING if name == TABLES[0] else name: tensor for name, tensor in weights.tensors.items()}
    tokenizer = (weights.path if weights.path.is_dir() else weights.path.parent) / "tokenizer.json"
    return Checkpoint(
        family=FAMILY.name,
        path=weights.path,
        files=tuple(dict.fromkeys(weights.files.values())),
        architecture=architecture,
        tensors=canonical(weights.tensors, architecture, fused),
        config=_hf_config(architecture, large, fused),
        upstream=upstream,
        notes=weights.notes,
        tokenizer=tokenizer if tokenizer.is_file() else None,
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
    config = large_config(architecture, settings, fused, FFN_FACTOR)
    spelled = {theirs: config[ours] for theirs, ours in SPELLINGS.items()}
    return {"model_type": "xlstm", **config, **spelled, "tie_word_embeddings": architecture.tied_head}


def from_settings(settings: Settings) -> tuple[Architecture, dict[str, object]]:
    """The architecture that transformers builds from a configuration, with its defaults."""
    large = _respelled(settings)
    large = dataclasses.replace(large, values=DEFAULTS | dict(large.values) | {"add_out_norm": True})
    architecture, _ = architecture_from(large, FFN_FACTOR)
    architecture = dataclasses.replace(architecture, final_norm_bias=False)
    fused = large.choice("weight_mode", "single", ("single", "fused")) == "fused"
    return architecture, _hf_config(architecture, large, fused)


FAMILY = Family("xlstm-hf", owns_tensors, owns_settings, read, from_settings)
