"""Random upstream models of all families, saved as checkpoints the way users have them.

    variant = VARIANTS["a-mixed"]
    model = variant.build(seed=0)                  # the upstream module, float32, eval
    path = variant.save(model, tmp_path)           # a checkpoint for `open_checkpoint`
    outputs, state = upstream_step(model, inputs)  # one step of the upstream module, (B, 1, V) or (B, 1, D)
    states = canonical_states(model, state)        # its state under the names and in the layouts of `Model`

Every parameter is random: the upstream initialisation zeroes recurrent kernels, gate weights and norm weights,
which would hide errors. Values are exact in the dtype they are saved in, so parity needs no rounding allowance.
The upstream packages are imported when first needed.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from support import checkpoint_writers as write
from support import tirex2_models as tirex2
from support import tirex_models as tirex

VOCAB = 97
NATIVE_KERNELS = {
    "chunkwise_kernel": "chunkwise--native_autograd",
    "sequence_kernel": "native_sequence__native",
    "step_kernel": "native",
}
"""The kernels of `mlstm_kernels` that run without Triton."""


@dataclass(frozen=True)
class Variant:
    """One kind of model, and one way of saving it."""

    name: str
    family: str
    """`xlstm`, `xlstm-large`, `xlstm-hf`, `tirex` or `tirex2`."""
    config: dict[str, Any]
    """Family `xlstm`: nested plain values for dacite, a block stack where there is no `vocab_size`."""
    writer: Callable[[nn.Module, dict, Path], Path]
    dtype: torch.dtype = torch.float32
    """Dtype on disk."""
    tied_by_hand: bool = False
    """`xlstm-hf` only: transformers 5 ignores `tie_word_embeddings`, so its users share the parameter themselves."""

    def build(self, seed: int = 0) -> nn.Module:
        """The upstream model with random weights, float32, in eval mode."""
        torch.manual_seed(seed)  # some parameters keep a part of their own initialisation
        model = build_upstream(self.family, self.config)
        if self.tied_by_hand:
            model.lm_head.weight = model.backbone.embeddings.weight
        randomise(model, seed, self.dtype)
        return model.eval()

    def save(self, model: nn.Module, directory: Path) -> Path:
        """Write the model as a checkpoint; returns the path to give to `open_checkpoint`."""
        directory.mkdir(parents=True, exist_ok=True)
        return self.writer(copy.deepcopy(model).to(self.dtype), copy.deepcopy(self.config), directory)


@torch.no_grad()
def randomise(model: nn.Module, seed: int, dtype: torch.dtype = torch.float32) -> None:
    """Random values everywhere, of a size that keeps every gate alive: some open, some shut, norms around one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("gate_preact.bias"):
            value = 2.0 * noise
        elif "recurrent_kernel" in name or "gate" in name:
            value = 0.3 * noise + (parameter if name.endswith("bias") else 0)
        elif name.endswith(("slstm_layer.slstm_cell._bias_", "fwd_cell._bias_")):
            value = 2.0 * noise  # of TiRex, which leaves it uninitialised, and of TiRex-2
        elif "norm" in name:
            ones = ("norm_", "out_norm", "multihead_norm", "fwd_cell.group_norm")
            direct = "xlstm_norm" not in name and any(one in name for one in ones)
            value = 0.2 * noise + (1.0 if direct and name.endswith("weight") else 0.0)
        elif parameter.ndim == 1:
            value = parameter + 0.2 * noise
        else:
            value = noise * parameter.shape[-1] ** -0.5
        parameter.copy_(value.to(dtype))


# --- building -------------------------------------------------------------------------------------------------------


def build_upstream(family: str, config: Mapping[str, Any]) -> nn.Module:
    """The upstream model of a configuration, with upstream's own initial weights."""
    builders: dict[str, Callable[[dict], nn.Module]] = {
        "xlstm": _build_xlstm,
        "xlstm-large": _build_large,
        "xlstm-hf": _build_hf,
        "tirex": tirex.build,
        "tirex2": tirex2.build,
    }
    return builders[family](dict(config))


def _build_xlstm(config: dict) -> nn.Module:
    from dacite import from_dict
    from xlstm import xLSTMBlockStack, xLSTMBlockStackConfig, xLSTMLMModel, xLSTMLMModelConfig

    if "vocab_size" in config:
        return xLSTMLMModel(from_dict(xLSTMLMModelConfig, copy.deepcopy(config)))
    return xLSTMBlockStack(from_dict(xLSTMBlockStackConfig, copy.deepcopy(config)))


def _build_large(config: dict) -> nn.Module:
    from xlstm.xlstm_large.model import xLSTMLarge, xLSTMLargeBlockStack, xLSTMLargeConfig

    runtime = {"mode": "inference", "return_last_states": True, "autocast_kernel_dtype": "float32", **NATIVE_KERNELS}
    model = xLSTMLarge if "vocab_size" in config else xLSTMLargeBlockStack
    return model(xLSTMLargeConfig(**({"vocab_size": 1} | config | runtime)))


def _build_hf(config: dict) -> nn.Module:
    from transformers.models.xlstm.configuration_xlstm import xLSTMConfig
    from transformers.models.xlstm.modeling_xlstm import xLSTMForCausalLM, xLSTMModel

    config.pop("model_type", None)
    model = xLSTMModel if config.get("architectures") == ["xLSTMModel"] else xLSTMForCausalLM
    return model(xLSTMConfig(**(config | NATIVE_KERNELS | {"autocast_kernel_dtype": "float32"})))


def to_double(model: nn.Module) -> nn.Module:
    """A float64 copy that computes in float64 throughout (norms and states too)."""
    double = copy.deepcopy(model).double()
    for module in double.modules():
        if hasattr(module, "force_float32_reductions"):
            module.force_float32_reductions = False
        if type(module).__name__ == "mLSTMBackend":
            replacement = copy.deepcopy(module.config)
            replacement.inference_state_dtype = "float64"
            module.__init__(replacement)
    if is_forecaster(model):
        _forecasters(model).compute_in_double(double)
    return double


# --- stepping -------------------------------------------------------------------------------------------------------


def is_block_stack(model: nn.Module) -> bool:
    return type(model).__name__ in ("xLSTMBlockStack", "xLSTMLargeBlockStack")


def is_forecaster(model: nn.Module) -> bool:
    return type(model).__name__ in ("TiRexZero", "TiRex2")


def _forecasters(model: nn.Module) -> Any:
    return {"TiRexZero": tirex, "TiRex2": tirex2}[type(model).__name__]


def random_inputs(model: nn.Module, batch: int, steps: int, seed: int = 0) -> Tensor:
    """Tokens (B, S), or for a block stack vectors (B, S, D) in the dtype of the model, or patches for a forecaster."""
    generator = torch.Generator().manual_seed(seed)
    if is_forecaster(model):
        patch = model.input_patch_size if type(model).__name__ == "TiRex2" else model.config.input_patch_size
        shape = (batch, steps, patch)
        present = (torch.rand(shape, generator=generator) < 0.8).to(next(model.parameters()).dtype)
        present[:, 1] = 0  # a patch without any value, as padding and rollout have it
        values = torch.randn(shape, generator=generator, dtype=present.dtype)
        return torch.cat([values * present, present], -1)
    if is_block_stack(model):
        dtype = next(model.parameters()).dtype
        return torch.randn(batch, steps, model.config.embedding_dim, generator=generator, dtype=dtype)
    return torch.randint(model.config.vocab_size, (batch, steps), generator=generator)


@torch.no_grad()
def upstream_step(model: nn.Module, inputs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """One step of an upstream model; `state` is its own kind of state, None before the first step.

    The upstream models write into the state they are given, so it is not to be used again.
    The Hugging Face model casts its logits to float32; here they keep the dtype of the model.
    """
    match type(model).__name__:
        case "xLSTMLMModel" | "xLSTMBlockStack":
            return model.step(inputs, state=state)
        case "xLSTMLarge" | "xLSTMLargeBlockStack":
            return model(inputs, state)
        case "xLSTMModel":
            output = model(inputs, cache_params=state, use_cache=True)
            return output.last_hidden_state, output.cache_params
        case "xLSTMForCausalLM":
            output = model.backbone(inputs, cache_params=state, use_cache=True)
            logits, cap = model.lm_head(output.last_hidden_state), model.config.output_logit_soft_cap
            return cap * torch.tanh(logits / cap), output.cache_params
        case "TiRexZero" | "TiRex2":
            return _forecasters(model).step(model, inputs, state)
    raise TypeError(type(model).__name__)


def canonical_states(model: nn.Module, state: Any) -> dict[str, Tensor]:
    """An upstream state under the names and in the layouts of `Model`, copied."""
    states: dict[str, Tensor] = {}
    if is_forecaster(model):
        return {name: tensor.clone() for name, tensor in state.items()}
    if type(model).__name__ in ("xLSTMLarge", "xLSTMLargeBlockStack", "xLSTMForCausalLM", "xLSTMModel"):
        blocks = state if isinstance(state, dict) else state.rnn_state
        for index, (C, n, m) in blocks.items():
            states |= {f"blocks.{index}.mlstm.C": C, f"blocks.{index}.mlstm.n": n, f"blocks.{index}.mlstm.m": m[..., 0]}
        return {name: tensor.clone() for name, tensor in states.items()}
    stack = model if is_block_stack(model) else model.xlstm_block_stack
    for index, block in enumerate(stack.blocks):
        block_state = state[f"block_{index}"]
        if "mlstm_state" in block_state:
            C, n, m = block_state["mlstm_state"]
            named = {"mlstm.C": C, "mlstm.n": n[..., 0], "mlstm.m": m[..., 0, 0]}
            layer = "mlstm"
        else:
            packed, heads = block_state["slstm_state"], block.xlstm.config.num_heads
            named = {f"slstm.{s}": t.reshape(t.shape[0], heads, -1) for s, t in zip("ycnm", packed, strict=True)}
            layer = "slstm"
        if block_state["conv_state"] is not None:
            named[f"{layer}.conv"] = block_state["conv_state"][0][:, 1:]  # the oldest column is dead after the shift
        states |= {f"blocks.{index}.{name}": tensor.clone() for name, tensor in named.items()}
    return states


# --- the list -------------------------------------------------------------------------------------------------------


def _xlstm(
    *,
    mlstm: Mapping | None = MappingProxyType({}),
    slstm: Mapping | None = MappingProxyType({}),
    feedforward: Mapping | None = MappingProxyType({}),
    heads: int = 4,
    **config: Any,
) -> dict:
    """Configuration of the `xlstm` package; None leaves a kind of block (or the feed-forward network) out."""
    base = {"vocab_size": VOCAB, "embedding_dim": 64, "num_blocks": 3, "slstm_at": [1], "context_length": 16}
    blocks = {}
    if mlstm is not None:
        blocks["mlstm_block"] = {"mlstm": {"num_heads": heads, **mlstm}}
    if slstm is not None:
        feedforward = None if feedforward is None else {"proj_factor": 1.3, "act_fn": "gelu", **feedforward}
        blocks["slstm_block"] = {
            "slstm": {"backend": "vanilla", "num_heads": heads, **slstm},
            "feedforward": feedforward,
        }
    merged = base | blocks | config
    if merged["vocab_size"] is None:
        del merged["vocab_size"]
    return merged


def _large(**config: Any) -> dict:
    merged = {"embedding_dim": 128, "num_heads": 4, "num_blocks": 2, "vocab_size": VOCAB} | config
    return {key: value for key, value in merged.items() if value is not None}


def _hf(**config: Any) -> dict:
    return {"hidden_size": 128, "num_heads": 4, "num_hidden_layers": 2, "vocab_size": VOCAB} | config


def _activation(name: str) -> dict:
    return _xlstm(feedforward={"act_fn": name}, num_blocks=2, slstm_at=[0])


_ALL = [
    Variant("a-mixed", "xlstm", _xlstm(), write.pt),
    Variant("a-training-state", "xlstm", _xlstm(slstm_at=[0, 2]), write.training_state),
    Variant("a-yaml", "xlstm", _xlstm(), write.bare_pt),
    Variant("a-metadata", "xlstm", _xlstm(), write.safetensors_metadata),
    Variant("a-tied", "xlstm", _xlstm(tie_weights=True), write.pt),
    Variant("a-tied-safetensors", "xlstm", _xlstm(tie_weights=True), write.safetensors),
    Variant("a-cuda-layout", "xlstm", _xlstm(), write.cuda_layout),
    Variant("a-odd-heads", "xlstm", _xlstm(heads=3, embedding_dim=96), write.pt),
    Variant("a-one-head", "xlstm", _xlstm(heads=1), write.pt),
    Variant("a-different-heads", "xlstm", _xlstm(slstm={"num_heads": 8}, mlstm={"num_heads": 2}), write.pt),
    Variant("a-no-conv", "xlstm", _xlstm(slstm={"conv1d_kernel_size": 0}), write.safetensors),
    Variant(
        "a-other-conv", "xlstm", _xlstm(slstm={"conv1d_kernel_size": 2}, mlstm={"conv1d_kernel_size": 5}), write.pt
    ),
    Variant("a-all-slstm", "xlstm", _xlstm(mlstm=None, slstm_at="all"), write.pt),
    Variant("a-all-mlstm", "xlstm", _xlstm(slstm=None, slstm_at=[]), write.safetensors),
    Variant("a-stack", "xlstm", _xlstm(vocab_size=None, slstm_at=[0]), write.pt),
    Variant("a-embedded-stack", "xlstm", _xlstm(vocab_size=None), write.embedded_stack),
    Variant("a-bias", "xlstm", _xlstm(bias=True, feedforward={"bias": True}), write.pt),
    Variant("a-no-post-norm", "xlstm", _xlstm(add_post_blocks_norm=False), write.pt),
    Variant("a-no-feedforward", "xlstm", _xlstm(feedforward=None), write.pt),
    Variant("a-no-group-norm-weight", "xlstm", _xlstm(slstm={"group_norm_weight": False}), write.pt),
    Variant("a-wide-projections", "xlstm", _xlstm(mlstm={"qkv_proj_blocksize": 32, "proj_factor": 1.5}), write.pt),
    Variant("a-rounding", "xlstm", _xlstm(mlstm={"proj_factor": 1.9, "round_proj_up_to_multiple_of": 8}), write.pt),
    Variant("a-bfloat16", "xlstm", _xlstm(), write.safetensors, torch.bfloat16),
    Variant("a-float16", "xlstm", _xlstm(), write.pt, torch.float16),
    Variant("a-relu", "xlstm", _activation("relu"), write.pt),
    Variant("a-relu2", "xlstm", _activation("relu^2"), write.pt),
    Variant("a-sigmoid", "xlstm", _activation("sigmoid"), write.pt),
    Variant("a-swish", "xlstm", _activation("swish"), write.pt),
    Variant("a-selu", "xlstm", _activation("selu"), write.pt),
    Variant("a-portable-layout", "xlstm", _xlstm(slstm_at=[0, 1]), write.portable_layout),
    Variant("a-whole-module", "xlstm", _activation("relu"), write.whole_module),
    Variant("b-single", "xlstm-large", _large(), write.large),
    Variant("b-shards", "xlstm-large", _large(), write.large_shards, torch.bfloat16),
    Variant("b-fused", "xlstm-large", _large(weight_mode="fused"), write.large),
    Variant("b-fused-bias", "xlstm-large", _large(weight_mode="fused", use_bias=True), write.large),
    Variant("b-bias", "xlstm-large", _large(use_bias=True), write.large),
    Variant("b-pt", "xlstm-large", _large(), write.training_state),
    Variant("b-odd-heads", "xlstm-large", _large(embedding_dim=96, num_heads=3, num_blocks=3), write.large),
    Variant("b-equal-dims", "xlstm-large", _large(qk_dim_factor=1.0), write.large),
    Variant("b-wide-keys", "xlstm-large", _large(qk_dim_factor=0.75, v_dim_factor=0.5), write.large),
    Variant("b-no-out-norm", "xlstm-large", _large(add_out_norm=False), write.large),
    Variant(
        "b-other-constants",
        "xlstm-large",
        _large(gate_soft_cap=7.0, output_logit_soft_cap=3.0, norm_eps=1e-2, eps=1e-1, ffn_proj_factor=2.1),
        write.large,
    ),
    Variant("b-shards-index", "xlstm-large", _large(), write.large_shards_with_index),
    Variant("b-backbone", "xlstm-large", _large(vocab_size=None), write.large),
    Variant("b-whole-module", "xlstm-large", _large(norm_eps=1e-3), write.whole_module),
    Variant("c-single", "xlstm-hf", _hf(), write.hf),
    Variant("c-shards", "xlstm-hf", _hf(), write.hf_shards),
    Variant("c-bfloat16", "xlstm-hf", _hf(), write.hf_shards, torch.bfloat16),
    Variant("c-jax-spelling", "xlstm-hf", _hf(), write.hf_jax_spelling),
    Variant("c-bias", "xlstm-hf", _hf(use_bias=True), write.hf),
    Variant("c-tied", "xlstm-hf", _hf(tie_word_embeddings=True), write.hf_tied, tied_by_hand=True),
    Variant("c-jax-shards", "xlstm-hf", _hf(num_heads=8), write.hf_jax_shards),
    Variant("c-pickle-shards", "xlstm-hf", _hf(), write.hf_pickle_shards),
    Variant("c-old-names", "xlstm-hf", _hf(), write.hf_old_names),
    Variant("c-said-to-be-tied", "xlstm-hf", _hf(tie_word_embeddings=True), write.hf),
    Variant("c-backbone", "xlstm-hf", _hf(architectures=["xLSTMModel"], norm_eps=1e-3), write.hf),
    Variant("c-whole-module", "xlstm-hf", _hf(gate_soft_cap=9.0), write.whole_module),
    Variant("c-other-constants", "xlstm-hf", _hf(gate_soft_cap=9.0, norm_eps=1e-3, num_heads=2), write.hf),
    Variant("d-ckpt", "tirex", tirex.settings(), tirex.lightning),
    Variant("d-old-names", "tirex", tirex.settings(num_blocks=2), tirex.lightning_with_old_names),
    Variant("d-folder", "tirex", tirex.settings(patch=4, quantiles=[0.25, 0.5, 0.75]), tirex.folder),
    Variant(
        "d-wide-heads", "tirex", tirex.settings(num_heads=2, embedding_dim=128, ffn_proj_factor=1.5), tirex.lightning
    ),
    Variant(
        "d-odd-heads",
        "tirex",
        tirex.settings(num_heads=3, embedding_dim=96, num_blocks=2, hidden=40, context=512),
        tirex.lightning,
    ),
    Variant("d-one-head", "tirex", tirex.settings(num_heads=1, context=64, num_states=4), tirex.lightning),
    Variant("d-unused-settings", "tirex", tirex.settings(backend="cuda", dropout=0.1), tirex.lightning),
    Variant("d-bfloat16", "tirex", tirex.settings(), tirex.lightning, torch.bfloat16),
]
if sys.version_info >= (3, 11):  # as tirex-2 wants it
    _ALL += [
        Variant("e-folder", "tirex2", tirex2.settings(), tirex2.folder),
        Variant(
            "e-legacy", "tirex2", tirex2.settings((tirex2.SLSTM, tirex2.MLSTM), act_func="torch.nn.ReLU"), tirex2.legacy
        ),
        Variant(
            "e-all-slstm",
            "tirex2",
            tirex2.settings((tirex2.SLSTM,) * 2, dim=96, heads=3, stack_out_norm_config=None, tta_diff=False),
            tirex2.folder,
        ),
        Variant(
            "e-all-mlstm",
            "tirex2",
            tirex2.settings(
                (tirex2.MLSTM,) * 2,
                dim=128,
                quantiles=[0.25, 0.5, 0.75],
                patch=4,
                stack_out_norm_config={"eps": 1e-3, "use_rmsnorm": True},
                act_func="GELU",
            ),
            tirex2.folder,
        ),
        Variant(
            "e-plain-scaler",
            "tirex2",
            tirex2.settings(scaler_cfg={"eps": 1e-5}, h_expand=0.75, device="cuda"),
            tirex2.folder,
            torch.bfloat16,
        ),
    ]

VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _ALL}


def here(*names: str) -> list[str]:
    """Those of these variants that this Python's packages can build."""
    return [name for name in names if name in VARIANTS]


def upstream_model_of(checkpoint: Any) -> nn.Module:
    """The upstream model of a checkpoint that was read, float32, in eval mode: what validation drives."""
    model = build_upstream(checkpoint.family, checkpoint.config)
    if checkpoint.family == "xlstm-hf" and checkpoint.architecture.tied_head:
        model.lm_head.weight = model.backbone.embeddings.weight
    model.load_state_dict({name: tensor.read() for name, tensor in checkpoint.upstream.items()})
    return model.eval()
