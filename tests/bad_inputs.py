"""Bad inputs of every kind, and what their one message must say.

    for bad in BAD_INPUTS:
        checkpoint, config = bad.make(folder)   # arguments of `open_checkpoint`, or CKPT and --config
        # raises UserError, whose message contains bad.message

An input with `when_read` has nothing wrong but its values: the error comes when tensors are read.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from upstream_models import VARIANTS

Arguments = tuple[Path, Path | None]
"""Checkpoint and configuration, as for `open_checkpoint`."""


@dataclass(frozen=True)
class BadInput:
    name: str
    make: Callable[[Path], Arguments]
    """Writes the input into an empty folder."""
    message: str
    """Part of the message of the UserError."""
    when_read: bool = False


BAD_INPUTS: list[BadInput] = []


def _bad(message: str, when_read: bool = False) -> Callable:
    """Register a function folder -> checkpoint, or folder -> (checkpoint, configuration), under its own name."""

    def register(function: Callable[[Path], Path | Arguments]) -> Callable:
        def make(folder: Path) -> Arguments:
            made = function(folder)
            return made if isinstance(made, tuple) else (made, None)

        BAD_INPUTS.append(BadInput(function.__name__.strip("_").replace("_", "-"), make, message, when_read))
        return function

    return register


@functools.cache
def _model(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    variant = VARIANTS[name]
    return dict(variant.build(seed=0).state_dict()), variant.config


def _weights(name: str = "a-mixed") -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in _model(name)[0].items()}


def _config(name: str = "a-mixed") -> dict[str, Any]:
    return json.loads(json.dumps(_model(name)[1]))


def _save(folder: Path, weights: dict[str, Tensor], config: dict | None = None, name: str = "ckpt.pt") -> Path:
    torch.save({"state_dict": weights, "config": _config() if config is None else config}, folder / name)
    return folder / name


def _save_with(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    config = _config()
    change(config)
    return _save(folder, _weights(), config)


def _save_folder(folder: Path, name: str, weights: dict[str, Tensor] | None = None, **settings: Any) -> Path:
    """A checkpoint folder of one of the large families, with some settings changed."""
    save_file(_weights(name) if weights is None else weights, str(folder / "model.safetensors"))
    config = _config(name) | settings
    if VARIANTS[name].family == "xlstm-hf":
        (folder / "config.json").write_text(json.dumps({"model_type": "xlstm"} | config))
    else:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def _save_shards(folder: Path) -> tuple[Path, dict[str, str]]:
    """Hugging Face folder of two shards, and its weight map."""
    weights = _weights("c-single")
    names = sorted(weights)
    half = len(names) // 2
    shards = {"model-00001-of-00002.safetensors": names[:half], "model-00002-of-00002.safetensors": names[half:]}
    for shard, part in shards.items():
        save_file({name: weights[name] for name in part}, str(folder / shard))
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    (folder / "config.json").write_text(json.dumps({"model_type": "xlstm"} | _config("c-single")))
    _write_index(folder, weight_map)
    return folder, weight_map


def _write_index(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _named(folder: Path, *names: str) -> Path:
    """A state dictionary of another model: names only matter."""
    torch.save({"state_dict": {name: torch.zeros(4, 4) for name in names}}, folder / "model.ckpt")
    return folder / "model.ckpt"


# --- files and folders ----------------------------------------------------------------------------------------------


@_bad("does not exist")
def no_such_path(folder: Path):
    return folder / "ckpt.pt"


@_bad("is empty. Copy or save it again")
def empty_file(folder: Path):
    return _write(folder / "ckpt.pt", b"")


@_bad("holds no weights (no .safetensors")
def folder_without_weights(folder: Path):
    _write(folder / "config.yaml", "embedding_dim: 64")
    return folder


@_bad("is a Git LFS pointer")
def git_lfs_pointer(folder: Path):
    return _write(folder / "model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")


@_bad("is a Git LFS pointer")
def folder_of_git_lfs_pointers(folder: Path):
    git_lfs_pointer(folder)
    return folder


@_bad("is a web page, not a checkpoint")
def web_page(folder: Path):
    return _write(folder / "model.safetensors", "<!DOCTYPE html><title>404</title>")


@_bad("is an ONNX model already")
def onnx_model(folder: Path):
    return _write(folder / "model.onnx", b"\x08\x0a\x12\x07pytorch")


@_bad("is a GGUF file")
def gguf_file(folder: Path):
    return _write(folder / "model.bin", b"GGUF\x03\0\0\0")


@_bad("is an HDF5 file")
def hdf5_file(folder: Path):
    return _write(folder / "model.ckpt", b"\x89HDF\r\n\x1a\n")


@_bad("is truncated or damaged")
def truncated_pt(folder: Path):
    path = _save(folder, _weights())
    return _write(path, path.read_bytes()[:-1000])


@_bad("is not a complete safetensors file")
def truncated_safetensors(folder: Path):
    path = _save_folder(folder, "b-single") / "model.safetensors"
    _write(path, path.read_bytes()[:-1000])
    return folder


@_bad("is not a complete safetensors file")
def safetensors_with_a_broken_header(folder: Path):
    return _write(folder / "model.safetensors", b'\x10\0\0\0\0\0\0\0{"a": nonsense}')


@_bad("is no file of torch.save (neither a zip archive nor a pickle)")
def text_called_pt(folder: Path):
    return _write(folder / "ckpt.pt", "epoch,loss\n1,2.5\n")


@_bad("but not one of torch.save")
def zip_of_something_else(folder: Path):
    with zipfile.ZipFile(folder / "ckpt.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    return folder / "ckpt.pt"


@_bad("is a pickle, but not a file of torch.save")
def plain_pickle(folder: Path):
    return _write(folder / "ckpt.pt", pickle.dumps({"state_dict": {"a.weight": [1.0, 2.0]}}))


@_bad("is a TorchScript archive")
def torchscript_archive(folder: Path):
    torch.jit.script(nn.Linear(2, 2)).save(str(folder / "ckpt.pt"))
    return folder / "ckpt.pt"


@_bad("instead of the whole model")
def whole_pickled_model(folder: Path):
    torch.save(nn.Sequential(nn.Linear(2, 2)), folder / "ckpt.pt")
    return folder / "ckpt.pt"


class _RunsCode:
    def __reduce__(self):
        return os.system, ("touch code-was-run",)


@_bad("objects are not unpickled: that could run code")
def pickle_that_runs_code(folder: Path):
    torch.save({"state_dict": _weights(), "config": _RunsCode()}, folder / "ckpt.pt")
    return folder / "ckpt.pt"


@_bad("holds a pickled omegaconf.")
def pickled_omegaconf_configuration(folder: Path):
    from omegaconf import OmegaConf

    torch.save({"state_dict": _weights(), "config": OmegaConf.create(_config())}, folder / "ckpt.pt")
    return folder / "ckpt.pt"


@_bad("holds a Tensor, not a state dictionary")
def single_tensor(folder: Path):
    torch.save(torch.zeros(3), folder / "ckpt.pt")
    return folder / "ckpt.pt"


@_bad("holds no state dictionary of an xLSTM model (top-level keys: epoch, config)")
def no_state_dictionary(folder: Path):
    torch.save({"epoch": 3, "config": _config()}, folder / "ckpt.pt")
    return folder / "ckpt.pt"


@_bad("holds several models: model and ema_model")
def two_models_in_one_file(folder: Path):
    torch.save({"model": _weights(), "ema_model": _weights()}, folder / "ckpt.pt")
    return folder / "ckpt.pt"


@_bad("holds several files of weights (epoch1.pt, epoch2.pt)")
def folder_of_several_pickles(folder: Path):
    _save(folder, _weights(), name="epoch1.pt")
    _save(folder, _weights(), name="epoch2.pt")
    return folder


@_bad("holds several safetensors files")
def folder_of_several_safetensors(folder: Path):
    for name in ("first", "second"):
        save_file(_weights("b-single"), str(folder / f"{name}.safetensors"))
    return folder


@_bad("model-00002-of-00002.safetensors is missing (1 of the 2 shards")
def missing_shard(folder: Path):
    _save_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    return folder


@_bad("model-00001-of-00002.safetensors is missing")
def missing_shard_without_index(folder: Path):
    _save_shards(folder)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model-00001-of-00002.safetensors").unlink()
    return folder


@_bad("model_1.safetensors is missing")
def missing_numbered_shard(folder: Path):
    VARIANTS["b-shards"].save(VARIANTS["b-shards"].build(), folder)
    (folder / "model_1.safetensors").unlink()
    return folder


@_bad("places tensor lm_head.weight in model-00001-of-00002.safetensors, where it is not")
def index_that_points_to_an_absent_tensor(folder: Path):
    _, weight_map = _save_shards(folder)
    _write_index(folder, weight_map | {"lm_head.weight": "model-00001-of-00002.safetensors"})
    return folder


@_bad("which is not a file name in its own folder")
def index_that_leaves_its_folder(folder: Path):
    _, weight_map = _save_shards(folder)
    _write_index(folder, weight_map | {"lm_head.weight": "../other.safetensors"})
    return folder


@_bad("is not a safetensors index")
def damaged_index(folder: Path):
    _save_shards(folder)
    _write(folder / "model.safetensors.index.json", '{"weight_map": ')
    return folder


@_bad("two checkpoints in one")
def index_beside_a_whole_file(folder: Path):
    _save_shards(folder)
    save_file(_weights("c-single"), str(folder / "model.safetensors"))
    return folder


@_bad("tensor lm_head.weight is in both")
def tensor_in_two_shards(folder: Path):
    VARIANTS["b-shards"].save(VARIANTS["b-shards"].build(), folder)
    save_file({"lm_head.weight": torch.zeros(97, 128)}, str(folder / "model_3.safetensors"))
    return folder


@_bad("is a configuration, not weights")
def configuration_in_place_of_weights(folder: Path):
    return _write(folder / "config.yaml", yaml.safe_dump(_config()))


@_bad("is a JAX (Orbax) checkpoint")
def orbax_folder(folder: Path):
    step = folder / "checkpoints" / "checkpoint_95000"
    step.mkdir(parents=True)
    _write(step / "_CHECKPOINT_METADATA", "{}")
    return folder


@_bad("is a distributed checkpoint")
def distributed_checkpoint(folder: Path):
    _write(folder / ".metadata", b"\x80")
    _write(folder / "__0_0.distcp", b"\x80")
    return folder


@_bad("is an exported bundle already")
def exported_bundle(folder: Path):
    _write(folder / "manifest.json", "{}")
    _write(folder / "model.onnx", b"\x08\x0a")
    return folder


@_bad("holds an adapter (LoRA)")
def adapter_folder(folder: Path):
    _write(folder / "adapter_config.json", "{}")
    save_file({"lora_A.weight": torch.zeros(2, 2)}, str(folder / "adapter_model.safetensors"))
    return folder


# --- other models ---------------------------------------------------------------------------------------------------


@_bad("is TiRex, the sLSTM forecaster, which is not supported yet")
def tirex(folder: Path):
    return _named(
        folder,
        "input_patch_embedding.hidden_layer.weight",
        "block_stack.blocks.0.slstm_layer.slstm_cell._recurrent_kernel_",
        "output_patch_embedding.output_layer.weight",
    )


@_bad("is TiRex-2, which runs in both directions")
def tirex_2(folder: Path):
    return _named(folder, "input_patch_embedding.hidden_layer.weight", "stack.0.time_mixer.fwd_cell.q.weight")


@_bad("is Vision-LSTM")
def vision_lstm(folder: Path):
    return _named(
        folder, "patch_embed.proj.weight", "blocks.0.rowwise_from_top_left.layer.mlstm_cell.igate.weight", "head.weight"
    )


@_bad("is of PyxLSTM, whose cells have equations of their own")
def pyxlstm(folder: Path):
    return _named(
        folder, "embedding.weight", "blocks.0.lstm.lstms.0.weight_ih", "blocks.0.lstm.exp_input_gates.0.weight"
    )


@_bad("has LSTM cells, but not those of a supported model")
def other_xlstm_cells(folder: Path):
    return _named(folder, "mlstm.W_q.weight", "mlstm.up_proj_left.weight")


@_bad("has the names of xlstm-jax")
def xlstm_jax_names(folder: Path):
    return _named(folder, "params.xlstm_block_stack.blocks_0.xlstm.mlstm_cell.igate.kernel")


@_bad("is no xLSTM model. Supported are")
def transformer(folder: Path):
    return _named(folder, "model.layers.0.self_attn.q_proj.weight", "lm_head.weight")


@_bad("is an xLSTM backbone without its language-model head")
def hugging_face_model_without_head(folder: Path):
    weights = {n.removeprefix("backbone."): t for n, t in _weights("c-single").items() if n.startswith("backbone.")}
    return _save_folder(folder, "c-single", weights)


@_bad("the tensor names of Prot-xLSTM")
def prot_xlstm_without_configuration(folder: Path):
    torch.save({f"backbone.{n}": t for n, t in _weights("a-all-mlstm").items()}, folder / "pytorch_model.bin")
    return folder


@_bad('position_embeddings = "rot_1d"')
def prot_xlstm_with_rotary_embeddings(folder: Path):
    torch.save({f"backbone.{n}": t for n, t in _weights("a-all-mlstm").items()}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(_config("a-all-mlstm") | {"position_embeddings": "rot_1d"}))
    return folder


# --- tensors --------------------------------------------------------------------------------------------------------


@_bad("tensor xlstm_block_stack.blocks.2.xlstm.q_proj.weight is missing")
def missing_tensor(folder: Path):
    weights = _weights()
    del weights["xlstm_block_stack.blocks.2.xlstm.q_proj.weight"]
    return _save(folder, weights)


@_bad("tensor xlstm_block_stack.blocks.1.xlstm_norm.weight is missing")
def missing_block(folder: Path):
    return _save(folder, {n: t for n, t in _weights().items() if ".blocks.1." not in n})


@_bad("tensor backbone.blocks.1.ffn.proj_down.weight is missing")
def missing_tensor_of_a_large_model(folder: Path):
    weights = _weights("b-single")
    del weights["backbone.blocks.1.ffn.proj_down.weight"]
    return _save_folder(folder, "b-single", weights)


@_bad("If embedding and head are one matrix, say tie_weights: true")
def missing_head(folder: Path):
    weights = _weights()
    del weights["lm_head.weight"]
    return _save(folder, weights)


@_bad("is not part of the model that the other tensors make")
def unknown_tensor(folder: Path):
    return _save(folder, _weights() | {"xlstm_block_stack.blocks.0.xlstm.mlstm_cell.rope": torch.zeros(4)})


@_bad("This is a network that contains an xLSTM model")
def network_around_a_block_stack(folder: Path):
    weights = {f"encoder.{n}": t for n, t in _weights("a-stack").items()}
    return _save(folder, weights | {"decoder.weight": torch.zeros(3, 64)}, _config("a-stack"))


@_bad("holds several block stacks, under 'first.' and 'second.'")
def two_block_stacks(folder: Path):
    stack = _weights("a-stack")
    return _save(folder, {f"{p}.{n}": t for p in ("first", "second") for n, t in stack.items()}, _config("a-stack"))


@_bad("are the same tensor under two names")
def tensors_with_and_without_wrapper(folder: Path):
    return _save(folder, _weights() | {f"module.{n}": t for n, t in _weights().items()})


@_bad("blocks.0.xlstm.proj_up.weight of")
def misshapen_tensor(folder: Path):
    weights = _weights()
    weights["xlstm_block_stack.blocks.0.xlstm.proj_up.weight"] = torch.zeros(256, 63)
    return _save(folder, weights)


@_bad("has shape [128]; expected 3 axes")
def tensor_with_a_lost_axis(folder: Path):
    weights = _weights()
    weights["xlstm_block_stack.blocks.0.xlstm.q_proj.weight"] = torch.zeros(128)
    return _save(folder, weights)


@_bad("has dtype int8; expected float32")
def quantised_tensor(folder: Path):
    weights = _weights("b-single")
    weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.int8)
    return _save_folder(folder, "b-single", weights)


@_bad("has dtype float8_e4m3fn; expected float32")
def float8_tensor(folder: Path):
    weights = _weights("b-single")
    weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.float8_e4m3fn)
    return _save_folder(folder, "b-single", weights)


@_bad("is sparse_coo; expected a plain dense tensor")
def sparse_tensor(folder: Path):
    weights = _weights()
    weights["lm_head.weight"] = weights["lm_head.weight"].to_sparse()
    return _save(folder, weights)


@_bad("mixes channels")
def channel_mixing_convolution(folder: Path):
    weights = _weights()
    weights["xlstm_block_stack.blocks.0.xlstm.conv1d.conv.weight"] = torch.zeros(128, 128, 4)
    return _save(folder, weights)


@_bad("block 2 has num_heads 2, but block 0 has 4")
def blocks_that_differ(folder: Path):
    weights = _weights()
    for gate in ("igate", "fgate"):
        for kind in ("weight", "bias"):
            name = f"xlstm_block_stack.blocks.2.xlstm.mlstm_cell.{gate}.{kind}"
            weights[name] = weights[name][:2]
    return _save(folder, weights)


@_bad("blocks.2.xlstm.proj_down.weight holds NaN or infinity (2 times, first at [3, 5])", when_read=True)
def nan_weight(folder: Path):
    weights = _weights()
    weights["xlstm_block_stack.blocks.2.xlstm.proj_down.weight"][3, 5] = torch.nan
    weights["xlstm_block_stack.blocks.2.xlstm.proj_down.weight"][60, 0] = torch.nan
    return _save(folder, weights)


@_bad("mlstm_layer.qkv_opreact.weight holds NaN or infinity (1 times, first at [200, 7])", when_read=True)
def infinite_weight_in_a_fused_matrix(folder: Path):
    weights = _weights("b-fused")
    weights["backbone.blocks.1.mlstm_layer.qkv_opreact.weight"][200, 7] = -torch.inf
    return _save_folder(folder, "b-fused", weights)


@_bad("xlstm_norm.weight holds NaN or infinity (1 times, first at [63])", when_read=True)
def nan_in_a_norm(folder: Path):
    weights = _weights()
    weights["xlstm_block_stack.blocks.0.xlstm_norm.weight"][63] = torch.nan
    return _save(folder, weights)


# --- configurations -------------------------------------------------------------------------------------------------


@_bad("num_blocks = 5, but the weights say 3")
def wrong_depth(folder: Path):
    return _save_with(folder, lambda c: c.update(num_blocks=5))


@_bad("embedding_dim = 128, but the weights say 64")
def wrong_width(folder: Path):
    return _save_with(folder, lambda c: c.update(embedding_dim=128))


@_bad("vocab_size = 50304, but the weights say 97")
def wrong_vocabulary(folder: Path):
    return _save_with(folder, lambda c: c.update(vocab_size=50304))


@_bad("slstm_at = [0], but the weights say [1]")
def wrong_slstm_positions(folder: Path):
    return _save_with(folder, lambda c: c.update(slstm_at=[0]))


@_bad("mlstm_block.mlstm.num_heads = 8, but the weights say 4")
def wrong_heads(folder: Path):
    return _save_with(folder, lambda c: c["mlstm_block"]["mlstm"].update(num_heads=8))


@_bad("slstm_block.slstm.conv1d_kernel_size = 0, but the weights say 4")
def wrong_convolution(folder: Path):
    return _save_with(folder, lambda c: c["slstm_block"]["slstm"].update(conv1d_kernel_size=0))


@_bad('mlstm_block.mlstm.proj_factor = 3.0, but the weights say "128 of 64"')
def wrong_projection_factor(folder: Path):
    return _save_with(folder, lambda c: c["mlstm_block"]["mlstm"].update(proj_factor=3.0))


@_bad('slstm_block.feedforward = null, but the weights say "a feed-forward network"')
def configuration_without_the_feed_forward_network(folder: Path):
    return _save_with(folder, lambda c: c["slstm_block"].update(feedforward=None))


@_bad("tie_weights = true, but the weights say false")
def tied_by_configuration_only(folder: Path):
    return _save_with(folder, lambda c: c.update(tie_weights=True))


@_bad("bias = true, but the weights say false")
def wrong_bias(folder: Path):
    return _save_with(folder, lambda c: c.update(bias=True))


@_bad('act_fn = "gelu_new": expected one of gelu, relu')
def unknown_activation(folder: Path):
    return _save_with(folder, lambda c: c["slstm_block"]["feedforward"].update(act_fn="gelu_new"))


@_bad('slstm_block.slstm.function = "lstm": only the sLSTM function')
def lstm_in_place_of_slstm(folder: Path):
    return _save_with(folder, lambda c: c["slstm_block"]["slstm"].update(function="lstm"))


@_bad("feedforward.activation is no setting of FeedForwardConfig")
def misspelt_setting(folder: Path):
    return _save_with(folder, lambda c: c["slstm_block"]["feedforward"].update(activation="relu"))


@_bad('num_heads = "four": expected a number')
def word_for_a_number(folder: Path):
    return _save_with(folder, lambda c: c["mlstm_block"]["mlstm"].update(num_heads="four"))


@_bad("mlstm_block = 3: expected a section")
def number_for_a_section(folder: Path):
    return _save_with(folder, lambda c: c.update(mlstm_block=3))


@_bad("weights do not tell its activation")
def no_configuration_and_an_activation_to_guess(folder: Path):
    torch.save(_weights(), folder / "ckpt.pt")
    return folder / "ckpt.pt"


@_bad("has no configuration, and weights do not tell the soft caps and epsilons")
def large_model_without_configuration(folder: Path):
    (_save_folder(folder, "b-single") / "config.yaml").unlink()
    return folder


@_bad("has no configuration, and weights do not tell the soft caps and epsilons")
def hugging_face_model_without_configuration(folder: Path):
    (_save_folder(folder, "c-single") / "config.json").unlink()
    return folder


@_bad("num_heads = 8, but the weights say 4")
def wrong_heads_of_a_large_model(folder: Path):
    return _save_folder(folder, "b-single", num_heads=8)


@_bad('qk_dim_factor = 1.0, but the weights say "64 of 128"')
def wrong_key_width(folder: Path):
    return _save_folder(folder, "b-single", qk_dim_factor=1.0)


@_bad("norm_eps = -1: expected a positive number")
def negative_epsilon(folder: Path):
    return _save_folder(folder, "b-single", norm_eps=-1)


@_bad("gate_softcap is no setting of xLSTMLargeConfig")
def misspelt_setting_of_a_large_model(folder: Path):
    return _save_folder(folder, "b-single", gate_softcap=10)


@_bad("says both hidden_size = 128 and embedding_dim = 512")
def two_spellings_that_differ(folder: Path):
    return _save_folder(folder, "c-single", embedding_dim=512)


@_bad("num_hidden_layers = 32, but the weights say 2")
def wrong_depth_of_a_hugging_face_model(folder: Path):
    return _save_folder(folder, "c-single", num_hidden_layers=32)


@_bad("quantised checkpoints are not supported")
def quantised_hugging_face_model(folder: Path):
    return _save_folder(folder, "c-single", quantization_config={"load_in_8bit": True})


@_bad("is a configuration of xlstm-hf, but the tensors of")
def configuration_of_another_family(folder: Path):
    torch.save(_weights(), folder / "ckpt.pt")
    (folder / "config.json").write_text(json.dumps({"model_type": "xlstm"} | _config("c-single")))
    return folder / "ckpt.pt"


@_bad("describes a model of type 'llama'")
def configuration_of_a_transformer(folder: Path):
    config = folder / "llama.json"
    config.write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64}))
    return _save(folder, _weights()), config


@_bad("describes several models (config.encoder, config.decoder)")
def configuration_of_two_models(folder: Path):
    other = _config() | {"num_blocks": 2}
    return _save(folder, _weights(), {"encoder": _config(), "decoder": other})


@_bad("which differ. Say which one is right: --config")
def two_configurations_beside_the_weights(folder: Path):
    save_file(_weights("b-single"), str(folder / "model.safetensors"))
    (folder / "config.yaml").write_text(yaml.safe_dump(_config("b-single")))
    (folder / "config.json").write_text(json.dumps(_config("b-single") | {"eps": 0.1}))
    return folder


@_bad("is not valid YAML")
def broken_yaml(folder: Path):
    return _save(folder, _weights()), _write(folder / "model.yaml", "mlstm_block: {")


@_bad("is not valid JSON")
def broken_json(folder: Path):
    return _save(folder, _weights()), _write(folder / "model.json", "{'a': 1}")


@_bad("holds no mapping of settings")
def yaml_list(folder: Path):
    return _save(folder, _weights()), _write(folder / "model.yaml", "- 1\n- 2\n")


@_bad("describes no xLSTM model: expected the fields of")
def configuration_of_something_else(folder: Path):
    return _save(folder, _weights()), _write(folder / "model.yaml", "lr: 0.1\nepochs: 3\n")


@_bad("missing.yaml does not exist")
def no_such_configuration(folder: Path):
    return _save(folder, _weights()), folder / "missing.yaml"
