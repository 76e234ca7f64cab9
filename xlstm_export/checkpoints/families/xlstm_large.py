"""Family `xlstm-large`: `xLSTMLarge` of the `xlstm` package."""

from __future__ import annotations

from collections.abc import Collection

from ...errors import ErrorKind, UserError
from ...modeling.architecture import Architecture
from ..checkpoint import Checkpoint
from ..files.settings import Marks, Settings
from ..files.weights import Weights
from . import mlstm_large as large
from .family import Family, join_tables

_KEYS = frozenset(
    {
        "embedding_dim",
        "num_heads",
        "num_blocks",
        "vocab_size",
        "use_bias",
        "norm_eps",
        "norm_reduction_force_float32",
        "add_out_norm",
        "qk_dim_factor",
        "v_dim_factor",
        "chunkwise_kernel",
        "sequence_kernel",
        "step_kernel",
        "mode",
        "chunk_size",
        "return_last_states",
        "autocast_kernel_dtype",
        "eps",
        "inference_state_dtype",
        "ffn_proj_factor",
        "ffn_round_up_to_multiple_of",
        "gate_soft_cap",
        "output_logit_soft_cap",
        "weight_mode",
        "tie_word_embeddings",
    }
)


def roots(names: Collection[str]) -> list[str]:
    return large.roots(names, hugging_face=False)


def read(weights: Weights, settings: Settings) -> Checkpoint:
    if not settings.given:
        raise UserError(
            ErrorKind.checkpoint,
            f"{weights.path} has no configuration, and weights do not tell the soft caps and epsilons of an xLSTMLarge "
            "model. Put its config.yaml beside the weights, or pass it with --config.",
        )
    settings.only(_KEYS, FAMILY.configurations)
    weights, tied = join_tables(weights, *large.TABLES, settings, "tie_word_embeddings")
    architecture, fused = large.architecture_of(weights, settings, tied)
    weights.require(large.expected(architecture, fused))
    large.agree(settings, architecture)
    settings.agree("add_out_norm", architecture.final_norm is not None, "backbone.out_norm.weight")
    return Checkpoint.of(
        weights,
        family=FAMILY.name,
        architecture=architecture,
        tensors=large.canonical(weights.tensors, architecture, fused),
        config=large.upstream_config(architecture, settings, fused),
        upstream=weights.tensors,
    )


def from_settings(settings: Settings) -> tuple[Architecture, dict[str, object]]:
    """The architecture that upstream builds from a configuration, with its defaults."""
    settings.only(_KEYS, FAMILY.configurations)
    architecture, fused = large.architecture_from(settings)
    return architecture, large.upstream_config(architecture, settings, fused)


FAMILY = Family(
    name="xlstm-large",
    models="xLSTMLarge of the xlstm package",
    configurations="xLSTMLargeConfig",
    marks=Marks(keys=(frozenset({"embedding_dim", "num_blocks"}),)),
    packages=("xlstm", "mlstm_kernels"),
    roots=roots,
    outline=large.outline,
    read=read,
    from_settings=from_settings,
)
