"""Family `xlstm-large`: `xLSTMLarge` of the `xlstm` package."""

from __future__ import annotations

from collections.abc import Collection

from ...errors import ErrorKind, UserError
from ...modeling.architecture import Architecture
from ..checkpoint import Checkpoint
from ..files.settings import Marks, Settings
from ..files.weights import Weights
from . import mlstm_large as large
from .family import Family, Tables, join_tables, without_vocabulary

_WITHOUT_EFFECT = frozenset({"type", "mlstm_round_up_to_multiple_of", "bias_init", "dropout"})
"""Keys that training code and converters write and that change nothing in a model that runs."""
_OF_TEXT = frozenset({"force_bos_token_insert", "bos_token_id", "eos_token_id", "pad_token_id"})
"""Read by `files/text_tokens.py`: they change what is fed to the model."""


TABLES = Tables(large.EMBEDDING, large.HEAD, tied="tie_word_embeddings", backbone="backbone")


def roots(names: Collection[str]) -> list[str]:
    return large.roots(names, hugging_face=False)


def read(weights: Weights, settings: Settings) -> Checkpoint:
    if not settings.given:
        raise UserError(
            ErrorKind.checkpoint,
            f"{weights.path} has no configuration, and weights do not tell the soft caps and epsilons of an xLSTMLarge "
            "model. Put its config.yaml beside the weights, or pass it with --config.",
        )
    notes = check_settings(settings)
    weights, tied = large.with_backbone(weights), False
    whole = large.EMBEDDING in weights or large.HEAD in weights
    if whole:
        weights, tied = join_tables(weights, TABLES, settings)
    else:
        settings, unused = without_vocabulary(settings)
        notes += unused
    model = large.from_weights(weights, settings, tied)
    weights.require(large.expected(model))
    large.agree(settings, model)
    settings.agree("add_out_norm", model.architecture.final_norm is not None, "backbone.out_norm.weight")
    return Checkpoint.of(
        weights,
        family=FAMILY.name,
        architecture=model.architecture,
        tensors=large.canonical(weights.tensors, model),
        config=large.upstream_config(model, settings),
        upstream=weights.tensors if whole else large.without_backbone(weights.tensors),
        notes=notes,
    )


def check_settings(settings: Settings) -> tuple[str, ...]:
    """Refuse what is not understood; returns a note of what does not matter."""
    settings.only(large.KEYS | _WITHOUT_EFFECT | _OF_TEXT, FAMILY.configurations)
    return settings.ignored(_WITHOUT_EFFECT)


def from_settings(settings: Settings) -> tuple[Architecture, dict[str, object]]:
    """The architecture that upstream builds from a configuration, with its defaults."""
    check_settings(settings)
    model = large.from_settings(settings)
    return model.architecture, large.upstream_config(model, settings)


FAMILY = Family(
    name="xlstm-large",
    models="xLSTMLarge and xLSTMLargeBlockStack of the xlstm package",
    configurations="xLSTMLargeConfig",
    marks=Marks(keys=(frozenset({"embedding_dim", "num_blocks"}),)),
    keys=large.KEYS,
    packages=("xlstm", "mlstm_kernels"),
    roots=roots,
    outline=large.outline,
    read=read,
    from_settings=from_settings,
)
