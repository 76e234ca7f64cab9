"""Models of other code bases, and tensors that make no model."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from support.bad_inputs.registry import bad, config_of, named, save, save_folder, weights_of


@bad("is Vision-LSTM")
def vision_lstm(folder: Path):
    return named(
        folder, "patch_embed.proj.weight", "blocks.0.rowwise_from_top_left.layer.mlstm_cell.igate.weight", "head.weight"
    )


@bad("is of PyxLSTM, whose cells have equations of their own")
def pyxlstm(folder: Path):
    return named(
        folder, "embedding.weight", "blocks.0.lstm.lstms.0.weight_ih", "blocks.0.lstm.exp_input_gates.0.weight"
    )


@bad("has LSTM cells, but not those of a supported model")
def other_xlstm_cells(folder: Path):
    return named(folder, "mlstm.W_q.weight", "mlstm.up_proj_left.weight")


@bad("has the names of xlstm-jax")
def xlstm_jax_names(folder: Path):
    return named(folder, "params.xlstm_block_stack.blocks_0.xlstm.mlstm_cell.igate.kernel")


@bad("is no xLSTM model. Supported are")
def transformer(folder: Path):
    return named(folder, "model.layers.0.self_attn.q_proj.weight", "lm_head.weight")


@bad("If there is none, export the model without it: --select backbone")
def hugging_face_model_whose_head_was_lost(folder: Path):
    weights = weights_of("c-single")
    del weights["lm_head.weight"]
    return save_folder(folder, "c-single", weights)


@bad("the tensor names of Prot-xLSTM")
def prot_xlstm_without_configuration(folder: Path):
    torch.save({f"backbone.{n}": t for n, t in weights_of("a-all-mlstm").items()}, folder / "pytorch_model.bin")
    return folder


@bad('position_embeddings = "rot_1d"')
def prot_xlstm_with_rotary_embeddings(folder: Path):
    torch.save({f"backbone.{n}": t for n, t in weights_of("a-all-mlstm").items()}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config_of("a-all-mlstm") | {"position_embeddings": "rot_1d"}))
    return folder


@bad("tensor xlstm_block_stack.blocks.2.xlstm.q_proj.weight is missing")
def missing_tensor(folder: Path):
    weights = weights_of()
    del weights["xlstm_block_stack.blocks.2.xlstm.q_proj.weight"]
    return save(folder, weights)


@bad("tensor xlstm_block_stack.blocks.1.xlstm_norm.weight is missing")
def missing_block(folder: Path):
    return save(folder, {n: t for n, t in weights_of().items() if ".blocks.1." not in n})


@bad("tensor backbone.blocks.1.ffn.proj_down.weight is missing")
def missing_tensor_of_a_large_model(folder: Path):
    weights = weights_of("b-single")
    del weights["backbone.blocks.1.ffn.proj_down.weight"]
    return save_folder(folder, "b-single", weights)


@bad("If embedding and head are one matrix, say so: --set tie_weights=true")
def missing_head(folder: Path):
    weights = weights_of()
    del weights["lm_head.weight"]
    return save(folder, weights)


@bad("is not part of the model that the other tensors make")
def unknown_tensor(folder: Path):
    return save(folder, weights_of() | {"xlstm_block_stack.blocks.0.xlstm.mlstm_cell.rope": torch.zeros(4)})


@bad("holds 2 models: state_dict.first (xlstm, 3 blocks of width 64) and state_dict.second (xlstm, 3 blocks")
def two_block_stacks(folder: Path):
    both = {part: weights_of("a-stack") for part in ("first", "second")}
    both = {f"{part}.{name}": tensor for part, stack in both.items() for name, tensor in stack.items()}
    return save(folder, both, config_of("a-stack"))


@bad("are the same tensor under two names")
def tensors_with_and_without_wrapper(folder: Path):
    return save(folder, weights_of() | {f"module.{n}": t for n, t in weights_of().items()})


@bad("blocks.0.xlstm.proj_up.weight of")
def misshapen_tensor(folder: Path):
    weights = weights_of()
    weights["xlstm_block_stack.blocks.0.xlstm.proj_up.weight"] = torch.zeros(256, 63)
    return save(folder, weights)


@bad("has shape [128]; expected 3 axes")
def tensor_with_a_lost_axis(folder: Path):
    weights = weights_of()
    weights["xlstm_block_stack.blocks.0.xlstm.q_proj.weight"] = torch.zeros(128)
    return save(folder, weights)


@bad("has dtype int8; expected float32")
def quantised_tensor(folder: Path):
    weights = weights_of("b-single")
    weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.int8)
    return save_folder(folder, "b-single", weights)


@bad("has dtype float8_e4m3fn; expected float32")
def float8_tensor(folder: Path):
    weights = weights_of("b-single")
    weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.float8_e4m3fn)
    return save_folder(folder, "b-single", weights)


@bad("is sparse_coo; expected a plain dense tensor")
def sparse_tensor(folder: Path):
    weights = weights_of()
    weights["lm_head.weight"] = weights["lm_head.weight"].to_sparse()
    return save(folder, weights)


@bad("mixes channels")
def channel_mixing_convolution(folder: Path):
    weights = weights_of()
    weights["xlstm_block_stack.blocks.0.xlstm.conv1d.conv.weight"] = torch.zeros(128, 128, 4)
    return save(folder, weights)


@bad("block 2 has num_heads 2, but block 0 has 4")
def blocks_that_differ(folder: Path):
    weights = weights_of()
    for gate in ("igate", "fgate"):
        for kind in ("weight", "bias"):
            name = f"xlstm_block_stack.blocks.2.xlstm.mlstm_cell.{gate}.{kind}"
            weights[name] = weights[name][:2]
    return save(folder, weights)


@bad("blocks.2.xlstm.proj_down.weight holds NaN or infinity (2 times, first at [3, 5])", when_read=True)
def nan_weight(folder: Path):
    weights = weights_of()
    weights["xlstm_block_stack.blocks.2.xlstm.proj_down.weight"][3, 5] = torch.nan
    weights["xlstm_block_stack.blocks.2.xlstm.proj_down.weight"][60, 0] = torch.nan
    return save(folder, weights)


@bad("mlstm_layer.qkv_opreact.weight holds NaN or infinity (1 times, first at [200, 7])", when_read=True)
def infinite_weight_in_a_fused_matrix(folder: Path):
    weights = weights_of("b-fused")
    weights["backbone.blocks.1.mlstm_layer.qkv_opreact.weight"][200, 7] = -torch.inf
    return save_folder(folder, "b-fused", weights)


@bad("xlstm_norm.weight holds NaN or infinity (1 times, first at [63])", when_read=True)
def nan_in_a_norm(folder: Path):
    weights = weights_of()
    weights["xlstm_block_stack.blocks.0.xlstm_norm.weight"][63] = torch.nan
    return save(folder, weights)
