"""Files and folders that hold no checkpoint, or half of one."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from support.bad_inputs.registry import bad, config_of, save, save_folder, save_shards, weights_of, write, write_index
from support.upstream_models import VARIANTS


@bad("does not exist")
def no_such_path(folder: Path):
    return folder / "ckpt.pt"


@bad("is empty. Copy or save it again")
def empty_file(folder: Path):
    return write(folder / "ckpt.pt", b"")


@bad("holds no weights (no .safetensors")
def folder_without_weights(folder: Path):
    write(folder / "config.yaml", "embedding_dim: 64")
    return folder


@bad("is a Git LFS pointer")
def git_lfs_pointer(folder: Path):
    return write(folder / "model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")


@bad("is a Git LFS pointer")
def folder_of_git_lfs_pointers(folder: Path):
    git_lfs_pointer(folder)
    return folder


@bad("is a web page, not a checkpoint")
def web_page(folder: Path):
    return write(folder / "model.safetensors", "<!DOCTYPE html><title>404</title>")


@bad("is an ONNX model already")
def onnx_model(folder: Path):
    return write(folder / "model.onnx", b"\x08\x0a\x12\x07pytorch")


@bad("is a GGUF file")
def gguf_file(folder: Path):
    return write(folder / "model.bin", b"GGUF\x03\0\0\0")


@bad("is an HDF5 file")
def hdf5_file(folder: Path):
    return write(folder / "model.ckpt", b"\x89HDF\r\n\x1a\n")


@bad("is truncated or damaged")
def truncated_pt(folder: Path):
    path = save(folder, weights_of())
    return write(path, path.read_bytes()[:-1000])


@bad("is not a complete safetensors file")
def truncated_safetensors(folder: Path):
    path = save_folder(folder, "b-single") / "model.safetensors"
    write(path, path.read_bytes()[:-1000])
    return folder


@bad("is not a complete safetensors file")
def safetensors_with_a_broken_header(folder: Path):
    return write(folder / "model.safetensors", b'\x10\0\0\0\0\0\0\0{"a": nonsense}')


@bad("is no file of torch.save (neither a zip archive nor a pickle)")
def text_called_pt(folder: Path):
    return write(folder / "ckpt.pt", "epoch,loss\n1,2.5\n")


@bad("but not one of torch.save")
def zip_of_something_else(folder: Path):
    with zipfile.ZipFile(folder / "ckpt.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    return folder / "ckpt.pt"


@bad("is a pickle, but not a file of torch.save")
def plain_pickle(folder: Path):
    return write(folder / "ckpt.pt", pickle.dumps({"state_dict": {"a.weight": [1.0, 2.0]}}))


@bad("is a TorchScript archive")
def torchscript_archive(folder: Path):
    torch.jit.script(nn.Linear(2, 2)).save(str(folder / "ckpt.pt"))
    return folder / "ckpt.pt"


@bad("is no xLSTM model")
def whole_pickled_model_of_another_kind(folder: Path):
    torch.save(nn.Sequential(nn.Linear(2, 2)), folder / "ckpt.pt")
    return folder / "ckpt.pt"


class _RunsCode:
    def __reduce__(self):
        return os.system, ("touch code-was-run",)


@bad("weights do not tell its activation")
def pickle_that_would_run_code_in_place_of_a_configuration(folder: Path):
    torch.save({"state_dict": weights_of(), "config": _RunsCode()}, folder / "ckpt.pt")
    return folder / "ckpt.pt"


@bad("holds a Tensor, not a state dictionary")
def single_tensor(folder: Path):
    torch.save(torch.zeros(3), folder / "ckpt.pt")
    return folder / "ckpt.pt"


@bad("holds no state dictionary of an xLSTM model (top-level keys: epoch, config)")
def no_state_dictionary(folder: Path):
    torch.save({"epoch": 3, "config": config_of()}, folder / "ckpt.pt")
    return folder / "ckpt.pt"


@bad("Say which one is meant: --select model")
def two_models_in_one_file(folder: Path):
    torch.save({"model": weights_of(), "ema_model": weights_of()}, folder / "ckpt.pt")
    return folder / "ckpt.pt"


@bad("holds several files of weights (epoch1.pt, epoch2.pt)")
def folder_of_several_pickles(folder: Path):
    save(folder, weights_of(), name="epoch1.pt")
    save(folder, weights_of(), name="epoch2.pt")
    return folder


@bad("holds several safetensors files")
def folder_of_several_safetensors(folder: Path):
    for name in ("first", "second"):
        save_file(weights_of("b-single"), str(folder / f"{name}.safetensors"))
    return folder


@bad("model-00002-of-00002.safetensors is missing (1 of the 2 shards")
def missing_shard(folder: Path):
    save_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    return folder


@bad("model-00001-of-00002.safetensors is missing")
def missing_shard_without_index(folder: Path):
    save_shards(folder)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model-00001-of-00002.safetensors").unlink()
    return folder


@bad("model_1.safetensors is missing")
def missing_numbered_shard(folder: Path):
    VARIANTS["b-shards"].save(VARIANTS["b-shards"].build(), folder)
    (folder / "model_1.safetensors").unlink()
    return folder


@bad("places tensor lm_head.weight in model-00001-of-00002.safetensors, where it is not")
def index_that_points_to_an_absent_tensor(folder: Path):
    _, weight_map = save_shards(folder)
    write_index(folder, weight_map | {"lm_head.weight": "model-00001-of-00002.safetensors"})
    return folder


@bad("which is not a file name in its own folder")
def index_that_leaves_its_folder(folder: Path):
    _, weight_map = save_shards(folder)
    write_index(folder, weight_map | {"lm_head.weight": "../other.safetensors"})
    return folder


@bad("is not an index of shards")
def damaged_index(folder: Path):
    save_shards(folder)
    write(folder / "model.safetensors.index.json", '{"weight_map": ')
    return folder


@bad("two checkpoints in one")
def index_beside_a_whole_file(folder: Path):
    save_shards(folder)
    save_file(weights_of("c-single"), str(folder / "model.safetensors"))
    return folder


@bad("holds model.safetensors.index.json and model_1.safetensors, which it does not list: two checkpoints in one")
def numbered_shard_that_the_index_does_not_list(folder: Path):
    weights = sorted(weights_of("c-single"))
    save_folder(folder, "c-single")
    (folder / "model.safetensors").rename(folder / "model_0.safetensors")
    write_index(folder, dict.fromkeys(weights, "model_0.safetensors"))
    save_file({"more": torch.zeros(2)}, str(folder / "model_1.safetensors"))
    return folder


@bad("model_1.safetensors is missing (1 of the 2 shards")
def numbered_shard_that_only_the_index_knows(folder: Path):
    weights = sorted(weights_of("c-single"))
    save_folder(folder, "c-single")
    (folder / "model.safetensors").rename(folder / "model_0.safetensors")
    write_index(folder, dict.fromkeys(weights, "model_0.safetensors") | {"lm_head.weight": "model_1.safetensors"})
    return folder


@bad("holds no weights itself, but checkpoint-500, checkpoint-1000 do. Name the one to export: ")
def output_folder_of_a_training_run(folder: Path):
    for steps in (1000, 500):
        (folder / f"checkpoint-{steps}").mkdir()
        save_folder(folder / f"checkpoint-{steps}", "c-single")
    return folder


@bad("tensor lm_head.weight is in both")
def tensor_in_two_shards(folder: Path):
    VARIANTS["b-shards"].save(VARIANTS["b-shards"].build(), folder)
    save_file({"lm_head.weight": torch.zeros(97, 128)}, str(folder / "model_3.safetensors"))
    return folder


@bad("is a configuration, not weights")
def configuration_in_place_of_weights(folder: Path):
    return write(folder / "config.yaml", yaml.safe_dump(config_of()))


@bad("is a JAX (Orbax) checkpoint")
def orbax_folder(folder: Path):
    step = folder / "checkpoints" / "checkpoint_95000"
    step.mkdir(parents=True)
    write(step / "_CHECKPOINT_METADATA", "{}")
    return folder


@bad("is a distributed checkpoint")
def distributed_checkpoint(folder: Path):
    write(folder / ".metadata", b"\x80")
    write(folder / "__0_0.distcp", b"\x80")
    return folder


@bad("is an exported bundle already")
def exported_bundle(folder: Path):
    write(folder / "manifest.json", "{}")
    write(folder / "model.onnx", b"\x08\x0a")
    return folder


@bad("holds an adapter (LoRA)")
def adapter_folder(folder: Path):
    write(folder / "adapter_config.json", "{}")
    save_file({"lora_A.weight": torch.zeros(2, 2)}, str(folder / "adapter_model.safetensors"))
    return folder
