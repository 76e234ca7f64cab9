"""The ways in which users have models on disk: each writes one and returns the path for `open_checkpoint`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file, save_model
from torch import nn


def pt(model: nn.Module, config: dict, directory: Path) -> Path:
    """`{"state_dict", "config"}` in one file."""
    torch.save({"state_dict": model.state_dict(), "config": config}, directory / "ckpt.pt")
    return directory / "ckpt.pt"


def training_state(model: nn.Module, config: dict, directory: Path) -> Path:
    """As a training loop saves it: compiled and wrapped model, optimiser state, configuration under `model`."""
    weights = {f"module._orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    optimizer = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]}
    hyper = {"lr": 1e-3, "model": config}
    checkpoint = {"model_state_dict": weights, "optimizer": optimizer, "epoch": 3, "hyper_parameters": hyper}
    torch.save(checkpoint, directory / "last.ckpt")
    return directory / "last.ckpt"


def bare_pt(model: nn.Module, config: dict, directory: Path) -> Path:
    """A bare state dict with `config.yaml` beside it, as upstream's experiments have it (under `model:`)."""
    torch.save(model.state_dict(), directory / "model.pt")
    (directory / "config.yaml").write_text(yaml.safe_dump({"training": {"lr": 0.001}, "model": config}))
    return directory / "model.pt"


def safetensors(model: nn.Module, config: dict, directory: Path) -> Path:
    """`model.safetensors` (shared tensors stored once) with `config.json` beside it, named by the directory."""
    save_model(model, str(directory / "model.safetensors"))
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    return directory


def safetensors_metadata(model: nn.Module, config: dict, directory: Path) -> Path:
    """One safetensors file with the configuration in its metadata."""
    path = directory / "weights.safetensors"
    save_file(model.state_dict(), str(path), metadata={"config": json.dumps(config)})
    return path


def embedded_stack(model: nn.Module, config: dict, directory: Path) -> Path:
    """A block stack beside the layers of the network around it."""
    around = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    checkpoint = {"xlstm_stack": model.state_dict(), "input_projection": around, "output_projection": around}
    torch.save(checkpoint | {"config": config}, directory / "ckpt.pt")
    return directory / "ckpt.pt"


def cuda_layout(model: nn.Module, config: dict, directory: Path) -> Path:
    """sLSTM recurrent kernels and biases in the layout of the CUDA backend, through upstream's own conversion."""
    from xlstm.blocks.slstm.cell import sLSTMCell_cuda

    weights = model.state_dict()
    for name, module in model.named_modules():
        if type(module).__name__ == "sLSTMCell_vanilla":
            cuda = sLSTMCell_cuda(module.config, skip_backend_init=True)
            kernel = module._recurrent_kernel_int2ext(module._recurrent_kernel_.data)
            bias = module._bias_int2ext(module._bias_.data)
            weights[f"{name}._recurrent_kernel_"] = cuda._recurrent_kernel_ext2int(kernel).contiguous()
            weights[f"{name}._bias_"] = cuda._bias_ext2int(bias).contiguous()
    config["slstm_block"]["slstm"]["backend"] = "cuda"
    torch.save({"model": weights, "cfg": config}, directory / "ckpt.pt")
    return directory / "ckpt.pt"


def portable_layout(model: nn.Module, config: dict, directory: Path) -> Path:
    """sLSTM recurrent kernels with four axes and biases with three, which either backend of upstream converts from."""
    weights = model.state_dict()
    for name, module in model.named_modules():
        if type(module).__name__ == "sLSTMCell_vanilla":
            weights[f"{name}._recurrent_kernel_"] = module._recurrent_kernel_int2ext(
                module._recurrent_kernel_.data
            ).contiguous()
            weights[f"{name}._bias_"] = module._bias_int2ext(module._bias_.data).contiguous()
    torch.save({"model": weights, "cfg": config}, directory / "ckpt.pt")
    return directory / "ckpt.pt"


def whole_module(model: nn.Module, config: dict, directory: Path) -> Path:
    """The module itself, pickled, as a training loop keeps its best one."""
    torch.save({"best": model, "epoch": 3}, directory / "best.pt")
    return directory / "best.pt"


def large(model: nn.Module, config: dict, directory: Path) -> Path:
    """xLSTMLarge directory: `config.yaml` and `model.safetensors`."""
    save_file(model.state_dict(), str(directory / "model.safetensors"))
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    return directory


def large_shards(model: nn.Module, config: dict, directory: Path) -> Path:
    """xLSTMLarge directory: `config.yaml` and `model_0.safetensors`, `model_1.safetensors`, ..."""
    weights = list(model.state_dict().items())
    third = -(-len(weights) // 3)
    for shard in range(3):
        save_file(dict(weights[shard * third : (shard + 1) * third]), str(directory / f"model_{shard}.safetensors"))
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    return directory


def large_shards_with_index(model: nn.Module, config: dict, directory: Path) -> Path:
    """As xlstm-jax converts to it: numbered shards, and an index beside them."""
    large_shards(model, config, directory)
    _index(directory, "model.safetensors", ".safetensors")
    return directory


def _index(directory: Path, name: str, suffix: str) -> None:
    weight_map = {}
    for shard in sorted(directory.glob(f"*{suffix}")):
        names = load_file(shard) if suffix == ".safetensors" else torch.load(shard, weights_only=True)
        weight_map |= dict.fromkeys(names, shard.name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / f"{name}.index.json").write_text(json.dumps(index))


def hf(model: nn.Module, config: dict, directory: Path) -> Path:
    """What `save_pretrained` writes, one file."""
    model.save_pretrained(str(directory))
    return directory


def hf_shards(model: nn.Module, config: dict, directory: Path) -> Path:
    """What `save_pretrained` writes, several shards and an index."""
    model.save_pretrained(str(directory), max_shard_size="400KB")
    return directory


def hf_tied(model: nn.Module, config: dict, directory: Path) -> Path:
    """One matrix for embedding and head, stored once (`save_pretrained` of transformers 5 refuses it)."""
    save_model(model, str(directory / "model.safetensors"), metadata={"format": "pt"})
    model.config.save_pretrained(str(directory))
    return directory


def hf_jax_spelling(model: nn.Module, config: dict, directory: Path) -> Path:
    """As xlstm-jax converts to it: `embedding_dim` and `num_blocks` only, and the kernels it was trained with."""
    config |= {"embedding_dim": config.pop("hidden_size"), "num_blocks": config.pop("num_hidden_layers")}
    config |= {"model_type": "xlstm", "step_kernel": "triton", "chunkwise_kernel": "chunkwise--triton_xl_chunk"}
    (directory / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), str(directory / "model.safetensors"), metadata={"format": "pt"})
    return directory


def hf_jax_shards(model: nn.Module, config: dict, directory: Path) -> Path:
    """As xlstm-jax converts to it: `config.json` with three keys, numbered shards, and an index."""
    large_shards_with_index(model, config, directory)
    (directory / "config.yaml").unlink()
    told = {"model_type": "xlstm", "embedding_dim": config["hidden_size"], "num_blocks": config["num_hidden_layers"]}
    (directory / "config.json").write_text(json.dumps(told))
    return directory


def hf_pickle_shards(model: nn.Module, config: dict, directory: Path) -> Path:
    """As older versions of transformers saved: pickled shards with an index, beside what their trainer keeps."""
    model.config.save_pretrained(str(directory))
    weights = list(model.state_dict().items())
    for shard, part in enumerate((weights[: len(weights) // 2], weights[len(weights) // 2 :])):
        torch.save(dict(part), directory / f"pytorch_model-0000{shard + 1}-of-00002.bin")
    _index(directory, "pytorch_model.bin", ".bin")
    torch.save({"state": {0: torch.zeros(3)}}, directory / "optimizer.pt")
    torch.save({"lr": 0.1}, directory / "training_args.bin")
    torch.save({"cpu": torch.zeros(3)}, directory / "rng_state_0.pth")
    return directory


def hf_old_names(model: nn.Module, config: dict, directory: Path) -> Path:
    """As transformers 4.54 saved where the `xlstm` package was not installed: `query`, `key`, `value`."""
    model.save_pretrained(str(directory))
    weights = load_file(directory / "model.safetensors")
    for new, old in (("q", "query"), ("k", "key"), ("v", "value")):
        weights = {name.replace(f".mlstm_layer.{new}.", f".mlstm_layer.{old}."): t for name, t in weights.items()}
    save_file(weights, str(directory / "model.safetensors"), metadata={"format": "pt"})
    return directory
