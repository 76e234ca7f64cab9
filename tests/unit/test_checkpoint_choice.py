"""Which part of a checkpoint is the model, and what the user says of it: --select and --set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from support.upstream_models import VARIANTS
from torch import Tensor, nn

from xlstm_export.checkpoints import (
    Checkpoint,
    ReadOptions,
    find_models,
    open_checkpoint,
    parse_overrides,
    random_checkpoint,
)
from xlstm_export.errors import ErrorKind, UserError

MODEL, STACK, LARGE, HF = (VARIANTS[name] for name in ("a-mixed", "a-stack", "b-single", "c-single"))


def weights_of(variant: Any, seed: int = 0) -> dict[str, Tensor]:
    return dict(variant.build(seed).state_dict())


def save(folder: Path, content: object) -> Path:
    torch.save(content, folder / "ckpt.pt")
    return folder / "ckpt.pt"


def under(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in weights.items()}


def assert_holds(checkpoint: Checkpoint, weights: dict[str, Tensor]) -> None:
    assert set(checkpoint.upstream) == set(weights)
    for name, tensor in weights.items():
        assert torch.equal(checkpoint.upstream[name].read(), tensor), name


def selected(path: Path, select: str, **overrides: object) -> Checkpoint:
    return open_checkpoint(path, ReadOptions(select=select, overrides=overrides))


# --- select ---------------------------------------------------------------------------------------------------------


def test_each_of_two_dictionaries_is_read_when_it_is_selected(tmp_path):
    model, average = weights_of(MODEL, 1), weights_of(MODEL, 2)
    path = save(tmp_path, {"model": model, "ema_model": {"shadow": average}, "config": MODEL.config})
    assert_holds(selected(path, "model"), model)
    assert_holds(selected(path, "ema_model"), average)
    assert_holds(selected(path, "ema_model.shadow"), average)
    assert_holds(selected(path, "shadow"), average), "the keys that lead there may be left out"
    with pytest.raises(UserError) as caught:
        open_checkpoint(path)
    assert caught.value.kind is ErrorKind.argument
    listed = "2 models: model (xlstm, 3 blocks of width 64, vocabulary 97) and ema_model.shadow (xlstm, 3 blocks of"
    assert listed in str(caught.value) and str(caught.value).endswith("--select model")


def test_models_are_listed_as_select_takes_them(tmp_path):
    stack = weights_of(STACK)
    path = save(tmp_path, under("net.encoder", stack) | under("net.decoder", {n: t + 1 for n, t in stack.items()}))
    models = find_models(path)
    assert [model.name for model in models] == ["net.encoder", "net.decoder"]
    for model in models:
        assert open_checkpoint(
            path, ReadOptions(select=model.name, overrides={"slstm_block": STACK.config["slstm_block"]})
        )


def test_configuration_of_the_same_name_goes_with_the_selected_part(tmp_path):
    encoder, decoder = VARIANTS["a-relu"], VARIANTS["a-selu"]
    content = {
        "encoder": weights_of(encoder),
        "decoder": weights_of(decoder),
        "config": {"encoder": encoder.config, "decoder": decoder.config},
    }
    path = save(tmp_path, content)
    assert selected(path, "encoder").architecture.blocks[0].feed_forward.activation == "relu"
    assert selected(path, "decoder").architecture.blocks[0].feed_forward.activation == "selu"


def test_stack_within_a_network_is_taken_alone_with_a_note(tmp_path):
    stack = weights_of(STACK)
    around = {"input_proj.weight": torch.ones(64, 5), "fc.weight": torch.ones(3, 64), "fc.bias": torch.ones(3)}
    counters = {"step": torch.tensor(3), "ids": torch.arange(4)}
    path = save(tmp_path, {"state_dict": under("xlstm", stack) | around | counters, "config": STACK.config})
    checkpoint = open_checkpoint(path)
    assert_holds(checkpoint, stack)
    assert checkpoint.notes == (
        "state_dict.fc, state_dict.input_proj beside state_dict.xlstm in ckpt.pt is not exported.",
    )


def test_stack_of_a_language_model_can_be_selected(tmp_path):
    weights = weights_of(MODEL)
    path = save(tmp_path, {"model": weights, "config": MODEL.config})
    checkpoint = selected(path, "xlstm_block_stack")
    assert checkpoint.notes[0].endswith("has no effect: what is exported takes and gives vectors.")
    assert checkpoint.architecture.vocab_size is None and not checkpoint.architecture.gives_logits
    stack = {n.removeprefix("xlstm_block_stack."): t for n, t in weights.items() if n.startswith("xlstm_block_stack.")}
    assert_holds(checkpoint, stack)


def test_backbone_of_a_large_model_can_be_selected(tmp_path):
    for variant, vocabulary in ((LARGE, None), (HF, 97)):
        folder = tmp_path / variant.name
        path = variant.save(variant.build(), folder)
        checkpoint = selected(path, "backbone")
        assert checkpoint.architecture.vocab_size == vocabulary
        assert not checkpoint.architecture.gives_logits
        backbone = {n.removeprefix("backbone."): t for n, t in weights_of(variant).items() if n.startswith("backbone.")}
        assert_holds(checkpoint, backbone)


def test_model_above_another_is_selected_with_a_dot(tmp_path):
    model, teacher = weights_of(MODEL, 1), weights_of(MODEL, 2)
    path = tmp_path / "model.safetensors"
    save_file(model | under("teacher", teacher), str(path), metadata={"config": json.dumps(MODEL.config)})
    assert {entry.name for entry in find_models(path)} == {".", "teacher"}
    top = selected(path, ".")
    assert_holds(top, model)
    assert top.notes == ("teacher beside . in model.safetensors is not exported.",)
    assert_holds(selected(path, "teacher"), teacher)


def test_part_that_is_not_there_or_in_two_places_is_named(tmp_path):
    stack = weights_of(STACK)
    both = under("a.net", stack) | under("b.net", {name: tensor + 1 for name, tensor in stack.items()})
    path = save(tmp_path, both)
    with pytest.raises(UserError, match=r"holds nothing under --select decoder\. It holds a\.net \(xlstm, 3 blocks"):
        selected(path, "decoder")
    with pytest.raises(UserError, match=r"holds net in several places: a\.net, b\.net"):
        selected(path, "net")
    with pytest.raises(UserError, match="is no xLSTM model"):
        selected(save(tmp_path, {"model": stack, "head": {"fc.weight": torch.ones(2, 2)}}), "head")


def test_names_out_of_a_file_cannot_drive_the_terminal(tmp_path):
    weights = weights_of(STACK) | {"blocks.0.\x1b[2J\ud800": torch.ones(2)}
    path = save(tmp_path, {"model": weights, "\x1b]0;": {"w": torch.ones(2, 2)}, "config": STACK.config})
    with pytest.raises(UserError, match=r"tensor model\.blocks\.0\.\\x1b\[2J\\ud800 of ") as caught:
        open_checkpoint(path)
    assert str(caught.value).isprintable()
    del weights["blocks.0.\x1b[2J\ud800"]
    content = {"model": weights, "\x1b]0;": {"w": torch.ones(2, 2)}, "config": STACK.config}
    assert open_checkpoint(save(tmp_path, content)).notes == ("\\x1b]0; beside model in ckpt.pt is not exported.",)


def test_thousands_of_models_are_refused_at_once_with_a_short_message(tmp_path):
    weights = {f"{'m' * 500}{i}.blocks.0.xlstm_norm.weight": torch.ones(4) for i in range(5000)}
    save_file(weights, str(tmp_path / "model.safetensors"))
    with pytest.raises(UserError, match="holds 64 models: m*0 .xlstm, 1 block of width 4") as caught:
        open_checkpoint(tmp_path / "model.safetensors")
    assert len(str(caught.value)) < 6000


# --- set ------------------------------------------------------------------------------------------------------------


def test_activation_that_the_weights_do_not_tell_is_said(tmp_path):
    path = save(tmp_path, weights_of(MODEL))
    with pytest.raises(UserError, match=r"\n--set slstm_block\.feedforward\.act_fn=gelu\n"):
        open_checkpoint(path)
    said = ReadOptions(overrides=parse_overrides(["slstm_block.feedforward.act_fn=swish"]))
    assert open_checkpoint(path, said).architecture.blocks[1].feed_forward.activation == "swish"


def test_setting_takes_the_place_of_one_in_the_configuration(tmp_path):
    path = LARGE.save(LARGE.build(), tmp_path)
    said = ReadOptions(overrides=parse_overrides(["output_logit_soft_cap=null", "eps=1e-3"]))
    architecture = open_checkpoint(path, said).architecture
    assert architecture.logit_soft_cap == 0.0 and architecture.blocks[0].cell_eps == 1e-3
    with pytest.raises(UserError, match=r"config\.yaml with --set says num_blocks = 7, but the weights say 2"):
        open_checkpoint(path, ReadOptions(overrides={"num_blocks": 7}))


def test_settings_alone_are_a_configuration(tmp_path):
    path = LARGE.save(LARGE.build(), tmp_path)
    (path / "config.yaml").unlink()
    assert open_checkpoint(path, ReadOptions(overrides={"norm_eps": 1e-4})).architecture.final_norm_eps == 1e-4


def test_settings_change_a_model_of_random_weights(tmp_path):
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(MODEL.config))
    said = ReadOptions(overrides={"num_blocks": 2, "slstm_block.feedforward.act_fn": "relu"})
    architecture = random_checkpoint(tmp_path / "model.yaml", 0, said).architecture
    assert len(architecture.blocks) == 2 and architecture.blocks[1].feed_forward.activation == "relu"


@pytest.mark.parametrize(
    ("variant", "override", "message"),
    [
        (MODEL, "tie_weigths=true", "tie_weigths is no setting of xLSTMLMModelConfig.*Did you mean tie_weights"),
        (
            MODEL,
            "slstm_block.feedforward.actfn=relu",
            "slstm_block.feedforward.actfn is no setting of FeedForwardConfig",
        ),
        (HF, "tie_embeddings=true", "tie_embeddings is no setting of transformers' xLSTMConfig.*tie_word_embeddings"),
        (LARGE, "normeps=1", "normeps is no setting of xLSTMLargeConfig. Did you mean norm_eps"),
    ],
)
def test_setting_that_is_none_is_refused_by_name(variant, override: str, message: str, tmp_path):
    path = variant.save(variant.build(), tmp_path)
    with pytest.raises(UserError, match=message):
        open_checkpoint(path, ReadOptions(overrides=parse_overrides([override])))


def test_values_are_read_as_yaml():
    told = ["a=1", "b.c=true", "d=[0, 2]", "e=gelu", "f=null", "g=1.5", "h=", "j={k: 1}"]
    values = {"a": 1, "b.c": True, "d": [0, 2], "e": "gelu", "f": None, "g": 1.5, "h": None, "j": {"k": 1}}
    assert parse_overrides(told) == values
    for wrong in ("a", "=1", "a..b=1", "a=[", "a=2024-13-45"):
        with pytest.raises(UserError, match="--set a?"):
            parse_overrides([wrong])


# --- keys that do not matter, and forms that configurations have -----------------------------------------------------


def test_negative_block_numbers_count_from_the_end(tmp_path):
    config = MODEL.config | {"slstm_at": [-2]}
    assert open_checkpoint(save(tmp_path, {"model": weights_of(MODEL), "config": config}))
    with pytest.raises(UserError, match=r"slstm_at = \[-1\], but the weights say \[1\]"):
        open_checkpoint(save(tmp_path, {"model": weights_of(MODEL), "config": MODEL.config | {"slstm_at": [-1]}}))
    with pytest.raises(UserError, match="expected a list of block numbers, 0 to 2"):
        open_checkpoint(save(tmp_path, {"model": weights_of(MODEL), "config": MODEL.config | {"slstm_at": [-4]}}))


def test_settings_without_effect_are_ignored_with_a_note_and_others_refused(tmp_path):
    path = LARGE.save(LARGE.build(), tmp_path)
    extra = {"type": "mLSTMv1", "mlstm_round_up_to_multiple_of": 64, "force_bos_token_insert": True, "dropout": 0.1}
    (path / "config.yaml").write_text(yaml.safe_dump(LARGE.config | extra))
    (note,) = open_checkpoint(path).notes
    assert note.startswith("dropout, mlstm_round_up_to_multiple_of, type in ")
    assert note.endswith("config.yaml does not change what is exported.")
    (path / "config.yaml").write_text(yaml.safe_dump(LARGE.config | {"qk_norm": True}))
    with pytest.raises(UserError, match="qk_norm is no setting of xLSTMLargeConfig"):
        open_checkpoint(path)


@pytest.mark.parametrize("key", ["_xlstm_config", "xlstm_cfg"])
@pytest.mark.parametrize("kind", ["xlstm", "my_model"])
def test_configuration_nested_in_a_hugging_face_one_is_read(key: str, kind: str, tmp_path):
    save_file(weights_of(MODEL), str(tmp_path / "model.safetensors"))
    whole = {"model_type": kind, "architectures": ["MyModel"], "hidden_size": 64, "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(whole | {key: VARIANTS["a-mixed"].config}))
    assert_holds(open_checkpoint(tmp_path), weights_of(MODEL))
    assert_holds(open_checkpoint(tmp_path, ReadOptions(tmp_path / "config.json")), weights_of(MODEL))


# --- layers in the places of embedding and head ---------------------------------------------------------------------


def replaced(embedding: nn.Module | None = None, head: nn.Module | None = None) -> dict[str, Tensor]:
    model = MODEL.build()
    if embedding is not None:
        model.token_embedding = embedding
    if head is not None:
        model.lm_head = head
    return dict(model.state_dict())


LAYERS = {
    "linear with bias": (replaced(nn.Linear(5, 64)), "has a bias beside it, which is not xLSTMLMModel's embedding"),
    "linear": (replaced(nn.Linear(5, 64, bias=False)), r"has shape \[64, 5\] in a model of width 64 with 97 outputs"),
    "square linear": (replaced(nn.Linear(64, 64, bias=False)), r"has shape \[64, 64\] in a model of width 64 with 97"),
    "square linear before a square head": (
        replaced(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)),
        "is square, so that the weights do not tell an embedding of 64 words from a linear layer",
    ),
    "head of another size": (
        replaced(head=nn.Linear(64, 3, bias=False)),
        "has 3 rows for an embedding of 97: it is not",
    ),
    "head with bias": (replaced(head=nn.Linear(64, 97)), "lm_head.weight of .* has a bias: it is not"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_in_the_place_of_a_table_is_named_with_the_line_that_exports_the_stack(name: str, tmp_path):
    weights, message = LAYERS[name]
    config = {key: value for key, value in MODEL.config.items() if key != "vocab_size"}
    path = save(tmp_path, {"model": weights, "config": config})
    with pytest.raises(UserError, match=message) as caught:
        open_checkpoint(path)
    select = str(caught.value).rpartition("--select ")[2]
    assert select == "model.xlstm_block_stack"
    checkpoint = selected(path, select)
    assert checkpoint.architecture.vocab_size is None
    assert [note for note in checkpoint.notes if "not exported" in note] == [], "what was not selected is not news"


def test_square_embedding_is_one_where_the_vocabulary_is_said(tmp_path):
    config = MODEL.config | {"vocab_size": 64}
    weights = replaced(nn.Embedding(64, 64), nn.Linear(64, 64, bias=False))
    assert open_checkpoint(save(tmp_path, {"model": weights, "config": config})).architecture.vocab_size == 64
    del config["vocab_size"]
    path = save(tmp_path, {"model": weights, "config": config})
    assert open_checkpoint(path, ReadOptions(overrides={"vocab_size": 64})).architecture.vocab_size == 64


def test_portable_kernel_with_a_flat_bias_is_refused(tmp_path):
    variant = VARIANTS["a-portable-layout"]
    path = variant.save(variant.build(), tmp_path)
    content = torch.load(path)
    name = "xlstm_block_stack.blocks.1.xlstm.slstm_cell._bias_"
    content["model"][name] = content["model"][name].reshape(-1)
    with pytest.raises(UserError, match=r"_bias_ of .* has shape \[256\]; the other tensors need \[4, 4, 16\]"):
        open_checkpoint(save(tmp_path, content))


def test_two_tables_that_are_said_to_be_one_are_both_used_with_a_note(tmp_path):
    variant = VARIANTS["c-said-to-be-tied"]
    checkpoint = open_checkpoint(variant.save(variant.build(), tmp_path))
    assert not checkpoint.architecture.tied_head
    (note,) = checkpoint.notes
    assert "says tie_word_embeddings = true, but embedding and head differ: both are used" in note


def test_absent_head_is_the_embedding_where_they_are_said_to_be_one(tmp_path):
    path = HF.save(HF.build(), tmp_path)
    weights = weights_of(HF)
    del weights["lm_head.weight"]
    save_file(weights, str(path / "model.safetensors"))
    checkpoint = open_checkpoint(path, ReadOptions(overrides={"tie_word_embeddings": True}))
    assert checkpoint.architecture.tied_head
