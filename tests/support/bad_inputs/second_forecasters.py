"""Checkpoints and configurations of TiRex-2 that are damaged, incomplete, or at odds with themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from support.bad_inputs.registry import bad, config_of, weights_of

MIXER = "stack.1.time_mixer"


def second(
    folder: Path,
    weights: Callable[[dict[str, Tensor]], object] = lambda weights: None,
    settings: Callable[[dict[str, Any]], object] = lambda settings: None,
) -> Path:
    """A TiRex-2 checkpoint in which something is changed."""
    tensors, config = weights_of("e-folder"), config_of("e-folder")
    weights(tensors)
    settings(config)
    save_file(tensors, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def changed(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda settings: settings.update(changes)


def template(name: str, section: str, **changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda settings: settings["stack_config"]["templates"][name][section].update(changes)


@bad(f"tensor {MIXER}.norm_ffn.weight is missing")
def second_forecaster_without_a_norm(folder: Path):
    return second(folder, lambda weights: weights.pop(f"{MIXER}.norm_ffn.weight"))


@bad("tensor stack.0.variate_mixer.attn.WQ.weight is missing")
def second_forecaster_without_the_attention_of_variates(folder: Path):
    return second(folder, lambda weights: weights.pop("stack.0.variate_mixer.attn.WQ.weight"))


@bad("_bias_ are one parameter of TiRex-2, and differ")
def second_forecaster_with_two_values_of_a_parameter(folder: Path):
    return second(folder, lambda weights: weights[f"{MIXER}.rev_cell._bias_"].add_(1))


@bad("num_blocks = 3, but the weights say 2")
def second_forecaster_with_fewer_blocks(folder: Path):
    def change(settings: dict[str, Any]) -> None:
        settings["num_blocks"] = 3
        settings["stack_config"]["recipe"].append("slstm")

    return second(folder, settings=change)


@bad("tensor stack.0.time_mixer.fwd_cell.fgate.weight (and")
def second_forecaster_with_the_cells_the_other_way_round(folder: Path):
    return second(folder, settings=lambda settings: settings["stack_config"]["recipe"].reverse())


@bad("quantiles = [0.1, 0.5, 0.9], but the weights say 9")
def second_forecaster_with_fewer_quantiles_than_outputs(folder: Path):
    return second(folder, settings=changed(quantiles=[0.1, 0.5, 0.9]))


@bad("output_patch_embedding.hidden_layer.weight of")
def second_forecaster_with_another_expansion(folder: Path):
    return second(folder, settings=changed(h_expand=4))


@bad("has no configuration, and weights do not tell window, quantiles and scaling of TiRex-2")
def second_forecaster_without_configuration(folder: Path):
    torch.save(weights_of("e-folder"), folder / "model.ckpt")
    return folder / "model.ckpt"


@bad("has no h_expand. Add it.")
def second_forecaster_without_a_setting(folder: Path):
    return second(folder, settings=lambda settings: settings.pop("h_expand"))


@bad('model_type = "attention": expected one of bi-slstm, bi-mlstm')
def second_forecaster_of_attention_over_time(folder: Path):
    return second(folder, settings=template("mlstm", "time_mixer", model_type="attention"))


@bad("time_mixer.conv1d_kernel_size is no setting of TimeMixerConfig")
def second_forecaster_with_a_convolution(folder: Path):
    return second(folder, settings=template("slstm", "time_mixer", conv1d_kernel_size=4))


@bad("num_slstm_heads = 5: the embedding width 64 is not a multiple of it")
def second_forecaster_with_heads_that_do_not_divide_it(folder: Path):
    return second(folder, settings=template("slstm", "time_mixer", num_slstm_heads=5))


@bad('recipe = ["mlstm", "tlstm"]: \'tlstm\' is none of the templates mlstm, slstm')
def second_forecaster_with_a_template_that_is_not_there(folder: Path):
    return second(folder, settings=lambda settings: settings["stack_config"].update(recipe=["mlstm", "tlstm"]))


@bad('act_func = "os.system": expected one of torch.nn\'s GELU, ReLU')
def second_forecaster_with_an_activation_of_its_own(folder: Path):
    return second(folder, settings=changed(act_func="os.system"))


@bad("input_patch_stride = 4: expected that of the input, 8")
def second_forecaster_with_patches_that_overlap(folder: Path):
    return second(folder, settings=lambda settings: settings["tokenizer_cfg"].update(input_patch_stride=4))


@bad("future_len = 100: expected a multiple of the patch")
def second_forecaster_with_a_horizon_that_is_cut_within_a_patch(folder: Path):
    return second(folder, settings=changed(future_len=100))


@bad("tta_sign_flip = true: forecasts that are averaged with those of the negated series are not supported")
def second_forecaster_that_looks_at_both_signs(folder: Path):
    return second(folder, settings=changed(tta_sign_flip=True))
