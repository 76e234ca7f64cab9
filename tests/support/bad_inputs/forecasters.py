"""Checkpoints and configurations of TiRex that are damaged, incomplete, or at odds with themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from support.bad_inputs.registry import bad, config_of, weights_of

CELL = "blocks.1.slstm_layer.slstm_cell"


def forecaster(
    folder: Path,
    weights: Callable[[dict[str, Tensor]], object] = lambda weights: None,
    settings: Callable[[dict[str, Any]], object] = lambda settings: None,
) -> Path:
    """A TiRex checkpoint in which something is changed."""
    tensors, config = weights_of("d-ckpt"), config_of("d-ckpt")
    weights(tensors)
    settings(config)
    torch.save({"state_dict": tensors, "hyper_parameters": config}, folder / "model.ckpt")
    return folder / "model.ckpt"


def model_config(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda settings: settings["model_config"].update(changes)


def block_kwargs(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda settings: settings["model_config"]["block_kwargs"].update(changes)


@bad(f"tensor {CELL}._bias_ is missing")
def forecaster_without_a_bias(folder: Path):
    return forecaster(folder, lambda weights: weights.pop(f"{CELL}._bias_"))


@bad(f"tensor {CELL}._recurrent_kernel_ is missing")
def forecaster_without_a_block(folder: Path):
    return forecaster(
        folder, lambda weights: [weights.pop(name) for name in list(weights) if name.startswith("blocks.1.")]
    )


@bad("blocks.0.slstm_layer.conv.weight of")
def forecaster_with_a_convolution(folder: Path):
    return forecaster(folder, lambda weights: weights.update({"blocks.0.slstm_layer.conv.weight": torch.zeros(64, 4)}))


@bad("has shape [4, 64, 16]; the other tensors need [4, 16, 64]")
def forecaster_with_the_kernel_of_another_backend(folder: Path):
    name = f"{CELL}._recurrent_kernel_"
    return forecaster(folder, lambda weights: weights.update({name: weights[name].transpose(1, 2).contiguous()}))


@bad("are one tensor of TiRex")
def forecaster_with_old_and_new_names(folder: Path):
    return forecaster(folder, lambda weights: weights.update({f"block_stack.{CELL}._bias_": torch.zeros(256)}))


@bad("71 outputs are not quantiles of 8 points")
def forecaster_with_a_cut_output(folder: Path):
    end = "output_patch_embedding.output_layer"
    cut = {f"{end}.{kind}": weights_of("d-ckpt")[f"{end}.{kind}"][:71].clone() for kind in ("weight", "bias")}
    return forecaster(folder, lambda weights: weights.update(cut))


@bad("not a multiple of 64")
def forecaster_with_a_narrow_feed_forward_network(folder: Path):
    name = "blocks.0.ffn.proj_up.weight"
    return forecaster(folder, lambda weights: weights.update({name: weights[name][:60].clone()}))


@bad("has no model_config.quantiles, and weights do not tell it")
def forecaster_without_settings(folder: Path):
    torch.save(weights_of("d-ckpt"), folder / "model.ckpt")
    return folder / "model.ckpt"


@bad("model_config.quantiles = [0.1, 0.5, 0.9], but the weights say 9")
def forecaster_with_fewer_quantiles_than_outputs(folder: Path):
    return forecaster(folder, settings=model_config(quantiles=[0.1, 0.5, 0.9]))


@bad("expected numbers between 0 and 1 that rise")
def forecaster_with_quantiles_that_fall(folder: Path):
    return forecaster(folder, settings=model_config(quantiles=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]))


@bad("expected numbers between 0 and 1 that rise")
def forecaster_with_quantiles_in_words(folder: Path):
    return forecaster(folder, settings=model_config(quantiles="deciles"))


@bad("train_ctx_len = 100: expected a multiple of the patch, which has 8 points")
def forecaster_with_a_window_that_is_cut_within_a_patch(folder: Path):
    return forecaster(folder, settings=lambda settings: settings.update(train_ctx_len=100))


@bad("model_config.input_patch_size = 16, but the weights say 8")
def forecaster_with_another_patch(folder: Path):
    return forecaster(folder, settings=model_config(input_patch_size=16))


@bad("model_config.block_kwargs.num_heads = 8, but the weights say 4")
def forecaster_with_other_heads(folder: Path):
    return forecaster(folder, settings=block_kwargs(num_heads=8))


@bad("ffn_proj_factor 5.0 gives a feed-forward network of width 320, but blocks.0.ffn.proj_up.weight has 192")
def forecaster_with_another_feed_forward_network(folder: Path):
    return forecaster(folder, settings=block_kwargs(ffn_proj_factor=5.0))


@bad("num_states = 2: expected 4")
def forecaster_of_lstm_cells(folder: Path):
    return forecaster(folder, settings=block_kwargs(num_states=2))


@bad("model_config.nan_mask_value is no setting of TiRexZeroConfig")
def forecaster_with_a_setting_that_upstream_sets_itself(folder: Path):
    return forecaster(folder, settings=model_config(nan_mask_value=1))
