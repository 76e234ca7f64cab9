"""Quantised folders of `xLSTMForCausalLM`, packed after the public layouts of GPTQ and compressed-tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

GROUP = 32


@dataclass
class Packed:
    """One matrix: what a folder stores of it, and what that stands for."""

    tensors: dict[str, Tensor]
    codes: Tensor
    """(N, K) signed."""
    weight: Tensor
    """(N, K) float32."""


def quantised(weight: Tensor, bits: int, symmetric: bool, group: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Signed codes (N, K), scales (N, groups) float16, zero points (N, groups), and the weight that they make."""
    middle, blocks = 2 ** (bits - 1), weight.reshape(len(weight), -1, group)
    low, high = blocks.amin(-1), blocks.amax(-1)
    width = 2 * torch.maximum(-low, high) if symmetric else high.clamp(min=0) - low.clamp(max=0)
    scales = (width / (2**bits - 1)).half().float()
    zeros = torch.zeros_like(scales) if symmetric else (-middle - low.clamp(max=0) / scales).round()
    codes = (blocks / scales[..., None] + zeros[..., None]).round().clamp(-middle, middle - 1)
    made = ((codes - zeros[..., None]) * scales[..., None]).reshape(weight.shape)
    return codes.reshape(weight.shape).to(torch.int8), scales.half(), zeros.to(torch.int8), made


def words(unsigned: Tensor, bits: int) -> Tensor:
    """int32 words along the last axis, the first code in the lowest bits."""
    count = 32 // bits
    parts = unsigned.long().reshape(len(unsigned), -1, count) << torch.arange(0, 32, bits)
    return parts.sum(-1).to(torch.uint32).view(torch.int32)


def gptq(name: str, weight: Tensor, bits: int, symmetric: bool, group: int, version: str = "gptq") -> Packed:
    codes, scales, zeros, made = quantised(weight, bits, symmetric, group)
    middle, less = 2 ** (bits - 1), 1 if version == "gptq" else 0
    tensors = {
        "qweight": words(codes.int() + middle, bits).T,
        "qzeros": words((zeros.int() + middle - less).T.contiguous(), bits),
        "scales": scales.T,
        "g_idx": (torch.arange(weight.shape[1]) // group).int(),
    }
    return Packed({f"{name}.{key}": value.contiguous() for key, value in tensors.items()}, codes, made)


def compressed(name: str, weight: Tensor, bits: int, symmetric: bool, group: int, packs: bool = True) -> Packed:
    codes, scales, zeros, made = quantised(weight, bits, symmetric, group)
    middle = 2 ** (bits - 1)
    tensors = {"weight_scale": scales}
    if packs:
        tensors |= {"weight_packed": words(codes.int() + middle, bits), "weight_shape": torch.tensor(weight.shape)}
    else:
        tensors["weight"] = codes
    if not symmetric:
        tensors["weight_zero_point"] = words((zeros.int() + middle).T.contiguous(), bits).T if packs else zeros
    return Packed({f"{name}.{key}": value.contiguous() for key, value in tensors.items()}, codes, made)


def write_folder(model: nn.Module, folder: Path, config: dict[str, object], pack) -> dict[str, Packed]:
    """Pack each linear layer of the blocks but the gates. The model's own weights become what was stored."""
    model.save_pretrained(str(folder))
    state, packed = dict(model.state_dict()), {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "gate_preact" not in name.replace("ogate", "") and name != "lm_head":
            packed[name] = one = pack(name, module.weight.detach())
            state.pop(f"{name}.weight")
            state |= one.tensors
            module.weight.data.copy_(one.weight)
    save_file({name: value.contiguous() for name, value in state.items()}, str(folder / "model.safetensors"))
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"quantization_config": config}))
    return packed
