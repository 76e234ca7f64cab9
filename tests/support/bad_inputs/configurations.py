"""Configurations that are absent, broken, of something else, or at odds with the weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from support.bad_inputs.registry import bad, config_of, save, save_folder, save_with, weights_of, write


@bad("num_blocks = 5, but the weights say 3")
def wrong_depth(folder: Path):
    return save_with(folder, lambda c: c.update(num_blocks=5))


@bad("embedding_dim = 128, but the weights say 64")
def wrong_width(folder: Path):
    return save_with(folder, lambda c: c.update(embedding_dim=128))


@bad("vocab_size = 50304, but the weights say 97")
def wrong_vocabulary(folder: Path):
    return save_with(folder, lambda c: c.update(vocab_size=50304))


@bad("slstm_at = [0], but the weights say [1]")
def wrong_slstm_positions(folder: Path):
    return save_with(folder, lambda c: c.update(slstm_at=[0]))


@bad("mlstm_block.mlstm.num_heads = 8, but the weights say 4")
def wrong_heads(folder: Path):
    return save_with(folder, lambda c: c["mlstm_block"]["mlstm"].update(num_heads=8))


@bad("slstm_block.slstm.conv1d_kernel_size = 0, but the weights say 4")
def wrong_convolution(folder: Path):
    return save_with(folder, lambda c: c["slstm_block"]["slstm"].update(conv1d_kernel_size=0))


@bad('mlstm_block.mlstm.proj_factor = 3.0, but the weights say "128 of 64"')
def wrong_projection_factor(folder: Path):
    return save_with(folder, lambda c: c["mlstm_block"]["mlstm"].update(proj_factor=3.0))


@bad('slstm_block.feedforward = null, but the weights say "a feed-forward network"')
def configuration_without_the_feed_forward_network(folder: Path):
    return save_with(folder, lambda c: c["slstm_block"].update(feedforward=None))


@bad("tie_weights = true, but the weights say false")
def tied_by_configuration_only(folder: Path):
    return save_with(folder, lambda c: c.update(tie_weights=True))


@bad("bias = true, but the weights say false")
def wrong_bias(folder: Path):
    return save_with(folder, lambda c: c.update(bias=True))


@bad('act_fn = "gelu_new": expected one of gelu, relu')
def unknown_activation(folder: Path):
    return save_with(folder, lambda c: c["slstm_block"]["feedforward"].update(act_fn="gelu_new"))


@bad('slstm_block.slstm.function = "lstm": only the sLSTM function')
def lstm_in_place_of_slstm(folder: Path):
    return save_with(folder, lambda c: c["slstm_block"]["slstm"].update(function="lstm"))


@bad("feedforward.activation is no setting of FeedForwardConfig")
def misspelt_setting(folder: Path):
    return save_with(folder, lambda c: c["slstm_block"]["feedforward"].update(activation="relu"))


@bad('num_heads = "four": expected a number')
def word_for_a_number(folder: Path):
    return save_with(folder, lambda c: c["mlstm_block"]["mlstm"].update(num_heads="four"))


@bad("mlstm_block = 3: expected a section")
def number_for_a_section(folder: Path):
    return save_with(folder, lambda c: c.update(mlstm_block=3))


@bad("weights do not tell its activation")
def no_configuration_and_an_activation_to_guess(folder: Path):
    torch.save(weights_of(), folder / "ckpt.pt")
    return folder / "ckpt.pt"


@bad("has no configuration, and weights do not tell the soft caps and epsilons")
def large_model_without_configuration(folder: Path):
    (save_folder(folder, "b-single") / "config.yaml").unlink()
    return folder


@bad("has no configuration, and weights do not tell the soft caps and epsilons")
def hugging_face_model_without_configuration(folder: Path):
    (save_folder(folder, "c-single") / "config.json").unlink()
    return folder


@bad("num_heads = 8, but the weights say 4")
def wrong_heads_of_a_large_model(folder: Path):
    return save_folder(folder, "b-single", num_heads=8)


@bad('qk_dim_factor = 1.0, but the weights say "64 of 128"')
def wrong_key_width(folder: Path):
    return save_folder(folder, "b-single", qk_dim_factor=1.0)


@bad("norm_eps = -1: expected a positive number")
def negative_epsilon(folder: Path):
    return save_folder(folder, "b-single", norm_eps=-1)


@bad("gate_softcap is no setting of xLSTMLargeConfig")
def misspelt_setting_of_a_large_model(folder: Path):
    return save_folder(folder, "b-single", gate_softcap=10)


@bad("says both hidden_size = 128 and embedding_dim = 512")
def two_spellings_that_differ(folder: Path):
    return save_folder(folder, "c-single", embedding_dim=512)


@bad("num_hidden_layers = 32, but the weights say 2")
def wrong_depth_of_a_hugging_face_model(folder: Path):
    return save_folder(folder, "c-single", num_hidden_layers=32)


@bad("quantization_config.quant_method = None, which is not read")
def quantised_hugging_face_model(folder: Path):
    return save_folder(folder, "c-single", quantization_config={"load_in_8bit": True})


@bad("is a configuration of xlstm-hf, but the tensors of")
def configuration_of_another_family(folder: Path):
    torch.save(weights_of(), folder / "ckpt.pt")
    (folder / "config.json").write_text(json.dumps({"model_type": "xlstm"} | config_of("c-single")))
    return folder / "ckpt.pt"


@bad("describes a model of type 'llama'")
def configuration_of_a_transformer(folder: Path):
    config = folder / "llama.json"
    config.write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64}))
    return save(folder, weights_of()), config


@bad("describes several models (config.encoder, config.decoder)")
def configuration_of_two_models(folder: Path):
    other = config_of() | {"num_blocks": 2}
    return save(folder, weights_of(), {"encoder": config_of(), "decoder": other})


@bad("which differ. Say which one is right: --config")
def two_configurations_beside_the_weights(folder: Path):
    save_file(weights_of("b-single"), str(folder / "model.safetensors"))
    (folder / "config.yaml").write_text(yaml.safe_dump(config_of("b-single")))
    (folder / "config.json").write_text(json.dumps(config_of("b-single") | {"eps": 0.1}))
    return folder


@bad("is not valid YAML")
def broken_yaml(folder: Path):
    return save(folder, weights_of()), write(folder / "model.yaml", "mlstm_block: {")


@bad("is not valid JSON")
def broken_json(folder: Path):
    return save(folder, weights_of()), write(folder / "model.json", "{'a': 1}")


@bad("holds no mapping of settings")
def yaml_list(folder: Path):
    return save(folder, weights_of()), write(folder / "model.yaml", "- 1\n- 2\n")


@bad("describes no xLSTM model: expected the fields of")
def configuration_of_something_else(folder: Path):
    return save(folder, weights_of()), write(folder / "model.yaml", "lr: 0.1\nepochs: 3\n")


@bad("missing.yaml does not exist")
def no_such_configuration(folder: Path):
    return save(folder, weights_of()), folder / "missing.yaml"
