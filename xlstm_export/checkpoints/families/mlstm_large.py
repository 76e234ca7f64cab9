"""The architecture of xLSTM-7B (Beck et al. 2025), which two upstream packages store alike: `xlstm_large`, `xlstm_hf`.

Names of tensors and settings are those of `xlstm.xlstm_large` here. Weights are `single` (one matrix for each
projection) or `fused`; fused ones are taken apart by rows, so that every tensor is still one run of the file's bytes.
A backbone alone has its names without `backbone.` in its file; here it has them with it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ...errors import ErrorKind, UserError
from ...modeling.architecture import Architecture, FeedForward, MLSTMLargeBlock
from ..files.settings import MAX_BLOCKS, Settings
from ..files.tensors import LazyTensor
from ..files.weights import Shapes, Weights, missing
from .family import outline_of, plain_factor

EMBEDDING, HEAD = "embedding.weight", "lm_head.weight"
BACKBONE = "backbone."
_ANCHOR = re.compile(r"(?P<root>(?:.*?\.)??)(?P<backbone>backbone\.)?blocks\.\d+\.mlstm_layer\..*")
NATIVE_KERNELS = {
    "chunkwise_kernel": "chunkwise--native_autograd",
    "sequence_kernel": "native_sequence__native",
    "step_kernel": "native",
}
"""Kernels that run on any machine."""
KEYS = frozenset(
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
"""Of `xLSTMLargeConfig`, and what ties embedding and head."""
FFN_FACTOR = 2.6667
"""`ffn_proj_factor` of `xLSTMLargeConfig` where nothing else is said."""


@dataclass(frozen=True)
class Large:
    """What tensors or settings make, and how the weights are kept."""

    architecture: Architecture
    block: MLSTMLargeBlock
    """All blocks are alike."""
    fused: bool


def roots(names: Collection[str], hugging_face: bool) -> list[str]:
    """Of models with the names of transformers, or of the others; of backbones alone, too."""
    found = dict.fromkeys(match["root"] for name in names if (match := _ANCHOR.fullmatch(name)))
    return [root for root in found if _is_hugging_face(names, root) == hugging_face]


def _is_hugging_face(names: Collection[str], root: str) -> bool:
    return any(f"{root}{backbone}embeddings.weight" in names for backbone in ("", BACKBONE))


def outline(weights: Weights) -> str:
    embedding = next((name for name in weights.tensors if name.endswith(("embedding.weight", "embeddings.weight"))), "")
    return outline_of(with_backbone(weights), f"{BACKBONE}blocks.0.norm_mlstm.weight", embedding)


def is_backbone(weights: Weights) -> bool:
    """Whether the tensors below a root have the names of a backbone alone."""
    return any(name.startswith("blocks.") for name in weights.tensors)


def with_backbone(weights: Weights) -> Weights:
    """The tensors under the names that they have in the whole model."""
    return weights.renamed({f"{BACKBONE}{name}": name for name in weights.tensors}) if is_backbone(weights) else weights


def without_backbone(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The other way round."""
    return {name.removeprefix(BACKBONE): tensor for name, tensor in tensors.items()}


def from_weights(weights: Weights, settings: Settings, tied: bool) -> Large:
    """What the tensors (and the constants in the settings) make."""
    has_vocabulary = EMBEDDING in weights
    found = {int(m[1]) for name in weights.tensors if (m := re.match(r"backbone\.blocks\.(\d+)\.", name))}
    if found != set(range(len(found))):
        gap = next(i for i in range(len(found)) if i not in found)
        raise missing(weights, [f"backbone.blocks.{gap}.norm_mlstm.weight"])
    layer = "backbone.blocks.0.mlstm_layer."
    fused = f"{layer}qkv_opreact.weight" in weights
    dim, v_dim = weights.shape(f"{layer}out_proj.weight", 2)
    if fused:
        qk_dim = weights.shape(f"{layer}qkv_opreact.weight", 2)[0] // 2 - v_dim
        heads = weights.shape(f"{layer}ifgate_preact.weight", 2)[0] // 2
    else:
        qk_dim = weights.shape(f"{layer}q.weight", 2)[0]
        heads = weights.shape(f"{layer}igate_preact.weight", 2)[0]
    if heads < 1 or qk_dim < 1 or qk_dim % heads or v_dim % heads:
        raise UserError(
            ErrorKind.checkpoint,
            f"{weights.path}: {heads} heads do not divide keys of {qk_dim} and values of {v_dim} ({layer}...). "
            "The file is damaged.",
        )
    norm_eps = settings.positive("norm_eps", 1e-6)
    bias = f"{layer}out_proj.bias" in weights
    block = MLSTMLargeBlock(
        num_heads=heads,
        qk_dim=qk_dim,
        v_dim=v_dim,
        gate_soft_cap=_soft_cap(settings, "gate_soft_cap", 15.0),
        cell_eps=settings.positive("eps", 1e-6),
        norm_eps=norm_eps,
        feed_forward=FeedForward(weights.shape("backbone.blocks.0.ffn.proj_down.weight", 2)[1], "swish", bias),
        bias=bias,
    )
    has_head = HEAD in weights
    architecture = Architecture(
        embedding_dim=dim,
        blocks=(block,) * len(found),
        vocab_size=weights.shape(EMBEDDING, 2)[0] if has_vocabulary else None,
        tied_head=tied,
        has_head=has_head,
        final_norm="rms_norm" if "backbone.out_norm.weight" in weights else None,
        final_norm_eps=norm_eps,
        final_norm_bias="backbone.out_norm.bias" in weights,
        logit_soft_cap=_soft_cap(settings, "output_logit_soft_cap", 30.0) if has_head else 0.0,
    )
    return Large(architecture, block, fused)


def from_settings(settings: Settings) -> Large:
    """What a configuration makes, with the defaults of `xLSTMLargeConfig`; without `vocab_size`, a backbone alone."""
    dim, heads = settings.integer("embedding_dim"), settings.integer("num_heads")
    bias = settings.boolean("use_bias", False)
    norm_eps = settings.positive("norm_eps", 1e-6)
    qk_dim = int(dim * settings.positive("qk_dim_factor", 0.5))
    v_dim = int(dim * settings.positive("v_dim_factor", 1.0))
    if qk_dim < heads or qk_dim % heads or v_dim % heads:
        raise settings.error("num_heads", f"keys of {qk_dim} and values of {v_dim} are not multiples of it")
    block = MLSTMLargeBlock(
        num_heads=heads,
        qk_dim=qk_dim,
        v_dim=v_dim,
        gate_soft_cap=_soft_cap(settings, "gate_soft_cap", 15.0),
        cell_eps=settings.positive("eps", 1e-6),
        norm_eps=norm_eps,
        feed_forward=FeedForward(_ffn_width(settings, dim), "swish", bias),
        bias=bias,
    )
    add_norm = settings.boolean("add_out_norm", True)
    has_vocabulary = "vocab_size" in settings
    architecture = Architecture(
        embedding_dim=dim,
        blocks=(block,) * settings.integer("num_blocks", maximum=MAX_BLOCKS),
        vocab_size=settings.integer("vocab_size") if has_vocabulary else None,
        tied_head=settings.boolean("tie_word_embeddings", False) and has_vocabulary,
        has_head=has_vocabulary,
        final_norm="rms_norm" if add_norm else None,
        final_norm_eps=norm_eps,
        final_norm_bias=add_norm and bias,
        logit_soft_cap=_soft_cap(settings, "output_logit_soft_cap", 30.0) if has_vocabulary else 0.0,
    )
    return Large(architecture, block, settings.choice("weight_mode", "single", ("single", "fused")) == "fused")


def _soft_cap(settings: Settings, key: str, default: float) -> float:
    """A cap, 0 for none (null)."""
    return 0.0 if key in settings and settings.values[key] is None else settings.positive(key, default)


def expected(large: Large) -> Shapes:
    """The shape of each tensor by its name in `xLSTMLarge`."""
    architecture, block = large.architecture, large.block
    dim, hidden = architecture.embedding_dim, block.feed_forward.hidden_dim
    linear = {"out_proj": (dim, block.v_dim)}
    gates = {"igate_preact": (block.num_heads, dim), "fgate_preact": (block.num_heads, dim)}
    ffn = {"proj_down": (dim, hidden)}
    if large.fused:
        linear["qkv_opreact"] = (2 * block.qk_dim + 2 * block.v_dim, dim)
        gates = {"ifgate_preact": (2 * block.num_heads, dim)}
        ffn["proj_up_gate_z"] = (2 * hidden, dim)
    else:
        linear |= {n: (rows, dim) for n, rows in zip(("q", "k", "v", "ogate_preact"), _qkvo(block), strict=True)}
        ffn |= {"proj_up_gate": (hidden, dim), "proj_up": (hidden, dim)}
    matrices = {f"mlstm_layer.{name}": shape for name, shape in (linear | gates).items()}
    matrices |= {f"ffn.{name}": shape for name, shape in ffn.items()}
    norms = {"norm_mlstm": (dim,), "norm_ffn": (dim,), "mlstm_layer.multihead_norm": (block.v_dim,)}
    weights: dict[str, tuple[int, ...]] = {**matrices, **norms}
    biases = weights if block.bias else {f"mlstm_layer.{name}": shape for name, shape in gates.items()}
    shapes: Shapes = {}
    if architecture.vocab_size is not None:
        shapes |= {name: [(architecture.vocab_size, dim)] for name in (EMBEDDING, HEAD)[: 1 + architecture.has_head]}
    for index in range(len(architecture.blocks)):
        at = f"backbone.blocks.{index}."
        shapes |= {f"{at}{name}.weight": [shape] for name, shape in weights.items()}
        shapes |= {f"{at}{name}.bias": [shape[:1]] for name, shape in biases.items()}
    if architecture.final_norm:
        shapes["backbone.out_norm.weight"] = [(dim,)]
    if architecture.final_norm_bias or (block.bias and architecture.final_norm):
        shapes["backbone.out_norm.bias"] = [(dim,)]
    return shapes


def _qkvo(block: MLSTMLargeBlock) -> tuple[int, int, int, int]:
    return block.qk_dim, block.qk_dim, block.v_dim, block.v_dim


def agree(settings: Settings, large: Large) -> None:
    """Hold every setting that the weights tell, too, against them."""
    architecture, block, at = large.architecture, large.block, "backbone.blocks.0."
    dim, hidden = architecture.embedding_dim, block.feed_forward.hidden_dim
    settings.agree("embedding_dim", dim, f"rows of {at}mlstm_layer.out_proj")
    if architecture.vocab_size is not None:
        settings.agree("vocab_size", architecture.vocab_size, f"rows of {EMBEDDING}")
    settings.agree("num_blocks", len(architecture.blocks), "backbone.blocks with tensors")
    settings.agree("num_heads", block.num_heads, f"rows of {at}mlstm_layer.igate_preact")
    settings.agree("use_bias", block.bias, f"{at}mlstm_layer.out_proj.bias")
    for key, width, evidence in (
        ("qk_dim_factor", block.qk_dim, f"{at}mlstm_layer.q"),
        ("v_dim_factor", block.v_dim, f"{at}mlstm_layer.out_proj"),
    ):
        if key in settings and int(dim * settings.positive(key, 1.0)) != width:
            raise settings.conflict(key, f"{width} of {dim}", evidence)
    told = _ffn_width(settings, dim)
    if "ffn_proj_factor" in settings and told != hidden:
        raise settings.conflict("ffn_proj_factor", f"{hidden} of {dim}", f"{at}ffn.proj_down; the setting makes {told}")


def _round_up(dim: int, factor: float, multiple: float) -> int:
    """Upstream's `round_up_to_next_multiple_of`, of a float."""
    return int(((dim * factor + multiple - 1) // multiple) * multiple)


def _ffn_width(settings: Settings, dim: int) -> int:
    return _round_up(dim, settings.positive("ffn_proj_factor", FFN_FACTOR), _multiple(settings))


def _multiple(settings: Settings) -> int:
    return settings.integer("ffn_round_up_to_multiple_of", 64)


def upstream_config(large: Large, settings: Settings) -> dict[str, object]:
    """Fields of `xLSTMLargeConfig` for stepping with kernels that run on any machine."""
    architecture, block = large.architecture, large.block
    dim = architecture.embedding_dim

    def factor(key: str, default: float, width: int) -> float:
        told = [(settings.positive(key, default), 1.0)]
        return plain_factor(dim, width, told, lambda d, f, _: int(d * f))[0]

    told = [(settings.positive("ffn_proj_factor", FFN_FACTOR), float(_multiple(settings)))]
    ffn_proj_factor, multiple = plain_factor(dim, block.feed_forward.hidden_dim, told, _round_up)
    vocabulary = {} if architecture.vocab_size is None else {"vocab_size": architecture.vocab_size}
    return {
        "embedding_dim": dim,
        "num_heads": block.num_heads,
        "num_blocks": len(architecture.blocks),
        **vocabulary,
        "use_bias": block.bias,
        "norm_eps": block.norm_eps,
        "norm_reduction_force_float32": True,
        "add_out_norm": architecture.final_norm is not None,
        "qk_dim_factor": factor("qk_dim_factor", 0.5, block.qk_dim),
        "v_dim_factor": factor("v_dim_factor", 1.0, block.v_dim),
        "eps": block.cell_eps,
        "ffn_proj_factor": ffn_proj_factor,
        "ffn_round_up_to_multiple_of": multiple,
        "gate_soft_cap": block.gate_soft_cap or None,
        "output_logit_soft_cap": architecture.logit_soft_cap or None,
        "weight_mode": "fused" if large.fused else "single",
        "mode": "inference",
        "return_last_states": True,
        "autocast_kernel_dtype": "float32",
        "inference_state_dtype": "float32",
        **NATIVE_KERNELS,
    }


def canonical(upstream: Mapping[str, LazyTensor], large: Large) -> dict[str, LazyTensor]:
    """Tensors under the names of the step-mode model."""
    architecture, block = large.architecture, large.block
    tensors: dict[str, LazyTensor] = {}
    if architecture.vocab_size is not None:
        tensors["embedding.weight"] = upstream[EMBEDDING]
        if architecture.has_head and not architecture.tied_head:
            tensors["head.weight"] = upstream[HEAD]
    renamed = {
        "norm_mlstm": "norm",
        "norm_ffn": "ffn_norm",
        "mlstm_layer.multihead_norm": "mlstm.head_norm",
        "mlstm_layer.out_proj": "mlstm.out_proj",
        "ffn.proj_down": "ffn.proj_down",
    }
    parts: dict[str, dict[str, int]] = {}
    if large.fused:
        hidden = block.feed_forward.hidden_dim
        qkvo = zip(("mlstm.q", "mlstm.k", "mlstm.v", "mlstm.ogate"), _qkvo(block), strict=True)
        parts = {
            "mlstm_layer.qkv_opreact": dict(qkvo),
            "mlstm_layer.ifgate_preact": {"mlstm.igate": block.num_heads, "mlstm.fgate": block.num_heads},
            "ffn.proj_up_gate_z": {"ffn.proj_gate": hidden, "ffn.proj_up": hidden},
        }
    else:
        renamed |= {f"mlstm_layer.{n}": f"mlstm.{n}" for n in "qkv"}
        renamed |= {f"mlstm_layer.{n}_preact": f"mlstm.{n}" for n in ("ogate", "igate", "fgate")}
        renamed |= {"ffn.proj_up_gate": "ffn.proj_gate", "ffn.proj_up": "ffn.proj_up"}
    for kind in ("weight", "bias"):
        if (norm := upstream.get(f"backbone.out_norm.{kind}")) is not None:
            tensors[f"norm.{kind}"] = norm
        for index in range(len(architecture.blocks)):
            source, target = f"backbone.blocks.{index}.", f"blocks.{index}."
            for old, new in renamed.items():
                if (tensor := upstream.get(f"{source}{old}.{kind}")) is not None:
                    tensors[f"{target}{new}.{kind}"] = tensor
            for old, rows in parts.items():
                if (tensor := upstream.get(f"{source}{old}.{kind}")) is None:
                    continue
                start = 0
                for new, count in rows.items():
                    tensors[f"{target}{new}.{kind}"] = tensor.rows(start, start + count)
                    start += count
    return tensors
