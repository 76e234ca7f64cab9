"""Checkpoints in every shape that users have them, configurations wherever they lie, and inputs damaged at random."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support.upstream_models import VARIANTS, Variant, upstream_model_of

from xlstm_export.checkpoints import Checkpoint, ReadOptions, open_checkpoint, read_config
from xlstm_export.errors import UserError
from xlstm_export.modeling.model import Model

MODEL = VARIANTS["a-mixed"]


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return dict(MODEL.build(seed=0).state_dict())


def save(folder: Path, content: object, name: str = "ckpt.pt", **options: Any) -> Path:
    torch.save(content, folder / name, **options)
    return folder / name


def assert_holds(checkpoint: Checkpoint, weights: dict[str, torch.Tensor]) -> None:
    """The tensors as upstream names them are these, bit for bit."""
    assert set(checkpoint.upstream) == set(weights)
    for name, tensor in weights.items():
        assert torch.equal(checkpoint.upstream[name].read(), tensor), name


# --- state dictionaries ---------------------------------------------------------------------------------------------

NESTINGS = {
    "state_dict": lambda sd, config: {"state_dict": sd, "config": config},
    "model": lambda sd, config: {"model": sd, "cfg": config},
    "model_state_dict": lambda sd, config: {"model_state_dict": sd, "args": config},
    "two levels": lambda sd, config: {"state": {"model": sd}, "config": {"network": {"xlstm": config}}},
    "with optimiser": lambda sd, config: {
        "model": sd,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": torch.tensor(3),
        "config": config,
    },
    "optimal": lambda sd, config: {
        "optimal_model": sd,
        "g_optimizer_states": [{"state": {"x": torch.zeros(3, 3)}}],
        "Optim": {"exp_avg": {name: torch.zeros(2, 2) for name in sd}},
        "config": config,
    },
    "lightning": lambda sd, config: {
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in sd.items()},
        "hyper_parameters": {"lr": 0.1, "config": config},
    },
    "tuple in the configuration": lambda sd, config: {"model": sd, "config": config | {"slstm_at": (1,)}},
    "namespace": lambda sd, config: {"model": sd, "args": argparse.Namespace(lr=0.1, out=Path("out"), model=config)},
    "numpy values": lambda sd, config: {
        "model": sd,
        "config": config,
        "best": np.float64(1.5),
        "step": np.int64(3),
        "rng": ("MT19937", np.arange(4, dtype=np.uint32)),
    },
    "averaged": lambda sd, config: {
        "model": {"n_averaged": torch.tensor(7)} | {f"module.{name}": tensor for name, tensor in sd.items()},
        "config": config,
    },
}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_state_dictionary_is_found_where_it_is_nested(nesting: str, weights, tmp_path):
    checkpoint = open_checkpoint(save(tmp_path, NESTINGS[nesting](weights, MODEL.config)))
    assert_holds(checkpoint, weights)
    assert checkpoint.notes == ()


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "net.model.", "model._orig_mod.module.", "_fsdp_wrapped_module.model."],
)
def test_prefix_of_every_name_is_removed(prefix: str, weights, tmp_path):
    renamed = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    assert_holds(open_checkpoint(save(tmp_path, {"state_dict": renamed, "config": MODEL.config})), weights)


def test_wrapper_in_the_middle_of_names_is_removed(weights, tmp_path):
    renamed = {name.replace("xlstm_block_stack.", "xlstm_block_stack._orig_mod."): t for name, t in weights.items()}
    renamed = {name.replace(".blocks.1.", ".blocks.1._checkpoint_wrapped_module."): t for name, t in renamed.items()}
    assert_holds(open_checkpoint(save(tmp_path, {"state_dict": renamed, "config": MODEL.config})), weights)


@pytest.mark.parametrize("prefix", ["xlstm_stack.", "stack.", "backbone.", "xlstm_block_stack."])
def test_block_stack_under_a_prefix_is_read_without_it(prefix: str, tmp_path):
    variant = VARIANTS["a-stack"]
    stack = dict(variant.build().state_dict())
    renamed = {f"{prefix}{name}": tensor for name, tensor in stack.items()}
    checkpoint = open_checkpoint(save(tmp_path, {"state_dict": renamed, "config": variant.config}))
    assert checkpoint.architecture.vocab_size is None
    assert_holds(checkpoint, stack)


def test_layers_beside_a_block_stack_are_named_in_a_note(tmp_path):
    variant = VARIANTS["a-embedded-stack"]
    checkpoint = open_checkpoint(variant.save(variant.build(), tmp_path))
    assert checkpoint.notes == ("input_projection, output_projection beside xlstm_stack in ckpt.pt is not exported.",)


def test_file_in_the_format_before_zip_is_read(weights, tmp_path):
    content = {"state_dict": weights, "config": MODEL.config}
    path = save(tmp_path, content, _use_new_zipfile_serialization=False)
    assert_holds(open_checkpoint(path), weights)


def test_folder_with_one_pickle_is_read(weights, tmp_path):
    save(tmp_path, weights, "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(MODEL.config))
    assert_holds(open_checkpoint(tmp_path), weights)


def test_safetensors_under_another_name_is_read(weights, tmp_path):
    save_file(weights, str(tmp_path / "model.bin"), metadata={"config": json.dumps(MODEL.config)})
    assert_holds(open_checkpoint(tmp_path / "model.bin"), weights)


def test_tensor_that_is_stored_transposed_is_read(weights, tmp_path):
    name = "xlstm_block_stack.blocks.0.xlstm.proj_up.weight"
    transposed = weights | {name: weights[name].t().contiguous().t()}
    checkpoint = open_checkpoint(save(tmp_path, {"model": transposed, "config": MODEL.config}))
    assert_holds(checkpoint, weights)
    assert torch.equal(torch.cat(list(checkpoint.upstream[name].chunks(1000))), weights[name].reshape(-1))


# --- configurations -------------------------------------------------------------------------------------------------


def activation_of(checkpoint: Checkpoint) -> str:
    return checkpoint.architecture.blocks[1].feed_forward.activation


def with_activation(name: str) -> dict[str, Any]:
    config = copy.deepcopy(MODEL.config)
    config["slstm_block"]["feedforward"]["act_fn"] = name
    return config


def test_given_configuration_wins_over_one_inside_and_inside_over_beside(weights, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(with_activation("relu")))
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(with_activation("swish")))
    bare = save(tmp_path, weights, "bare.pt")
    full = save(tmp_path, {"model": weights, "config": with_activation("selu")}, "full.pt")
    assert activation_of(open_checkpoint(bare)) == "relu"
    assert activation_of(open_checkpoint(full)) == "selu"
    assert activation_of(open_checkpoint(full, ReadOptions(tmp_path / "given.yaml"))) == "swish"
    (tmp_path / "bare.json").write_text(json.dumps(with_activation("sigmoid")))
    assert activation_of(open_checkpoint(bare)) == "sigmoid", "a file of the weights' own name comes first"


def test_configuration_may_say_no_more_than_the_activation(weights, tmp_path):
    (tmp_path / "given.yaml").write_text("slstm_block: {feedforward: {act_fn: relu^2}}")
    assert activation_of(open_checkpoint(save(tmp_path, weights), ReadOptions(tmp_path / "given.yaml"))) == "relu^2"


@pytest.mark.parametrize("name", ["a-all-mlstm", "a-no-feedforward"])
def test_weights_without_any_configuration_are_enough_where_they_tell_all(name: str, tmp_path):
    weights = dict(VARIANTS[name].build().state_dict())
    checkpoint = open_checkpoint(save(tmp_path, weights))
    assert_holds(checkpoint, weights)
    rebuilt = upstream_model_of(checkpoint).state_dict()
    assert all(torch.equal(rebuilt[key], tensor) for key, tensor in weights.items())


def test_widths_that_no_standard_factor_makes_are_rebuilt_from_weights_alone(tmp_path):
    config = copy.deepcopy(VARIANTS["a-all-mlstm"].config)
    config["mlstm_block"]["mlstm"] |= {"proj_factor": 1.7, "round_proj_up_to_multiple_of": 4}
    weights = Variant("narrow", "xlstm", config, MODEL.writer).build().state_dict()
    rebuilt = upstream_model_of(open_checkpoint(save(tmp_path, dict(weights)))).state_dict()
    assert all(torch.equal(rebuilt[key], tensor) for key, tensor in weights.items())


def test_pickled_upstream_configuration_is_read(weights, tmp_path):
    path = save(tmp_path, {"state_dict": weights, "config": MODEL.build().config})
    assert_holds(open_checkpoint(path), weights)


def test_configuration_as_dataclasses_asdict_gives_it_is_read(weights, tmp_path):
    path = save(tmp_path, {"state_dict": weights, "config": dataclasses.asdict(MODEL.build().config)})
    assert_holds(open_checkpoint(path), weights)


def test_pickled_configuration_of_a_large_model_is_read(tmp_path):
    model = VARIANTS["b-other-constants"].build()
    path = save(tmp_path, {"model": model.state_dict(), "config": model.config})
    assert_holds(open_checkpoint(path), dict(model.state_dict()))
    assert open_checkpoint(path).architecture.blocks[0].gate_soft_cap == 7.0


def test_interpolations_are_resolved_and_unset_values_ignored(weights, tmp_path):
    config = with_activation("relu") | {"vocab_size": "${dataset.kwargs.vocab_size}", "num_blocks": "???"}
    whole = {"model": config, "dataset": {"kwargs": {"vocab_size": 97}}, "training": {"steps": "${.num_steps}"}}
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(whole))
    assert activation_of(open_checkpoint(save(tmp_path, weights), ReadOptions(tmp_path / "given.yaml"))) == "relu"
    whole["dataset"]["kwargs"]["vocab_size"] = 98
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(whole))
    with pytest.raises(UserError, match="vocab_size = 98, but the weights say 97"):
        open_checkpoint(tmp_path / "ckpt.pt", ReadOptions(tmp_path / "given.yaml"))


def test_epsilon_that_yaml_reads_as_a_string_is_a_number(tmp_path):
    variant = VARIANTS["b-single"]
    path = variant.save(variant.build(), tmp_path)
    text = yaml.safe_dump(variant.config) + "norm_eps: 1e-3\neps: 2e-4\n"
    assert yaml.safe_load(text)["norm_eps"] == "1e-3"
    (path / "config.yaml").write_text(text)
    architecture = open_checkpoint(path).architecture
    assert architecture.final_norm_eps == architecture.blocks[0].norm_eps == 1e-3
    assert architecture.blocks[0].cell_eps == 2e-4


def test_null_soft_cap_is_no_cap(tmp_path):
    variant = VARIANTS["b-single"]
    path = variant.save(variant.build(), tmp_path)
    (path / "config.yaml").write_text(yaml.safe_dump(variant.config | {"output_logit_soft_cap": None}))
    checkpoint = open_checkpoint(path)
    assert checkpoint.architecture.logit_soft_cap == 0.0
    assert checkpoint.config["output_logit_soft_cap"] is None


@pytest.mark.parametrize(
    ("block", "layer", "width"),
    [("mlstm_block", "mlstm", "inner width 128"), ("slstm_block", "slstm", "embedding width 64")],
)
def test_heads_that_do_not_divide_a_width_are_named_in_the_section_that_says_them(
    block: str, layer: str, width: str, tmp_path
):
    config = copy.deepcopy(MODEL.config)
    config[block][layer]["num_heads"] = 7
    (tmp_path / "model.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        read_config(tmp_path / "model.json")
    assert f"has {block}.{layer}.num_heads = 7: the {width} is not a multiple of it" in str(caught.value)


# --- tied head, tokenizer -------------------------------------------------------------------------------------------


def test_equal_embedding_and_head_are_tied_whatever_the_configuration_leaves_unsaid(weights, tmp_path):
    tied = weights | {"lm_head.weight": weights["token_embedding.weight"].clone()}
    checkpoint = open_checkpoint(save(tmp_path, {"model": tied, "config": MODEL.config}))
    assert checkpoint.architecture.tied_head
    assert "head.weight" not in checkpoint.tensors
    assert_holds(checkpoint, tied)


@pytest.mark.parametrize("kept", ["token_embedding.weight", "lm_head.weight"])
def test_tied_model_may_store_either_table(kept: str, weights, tmp_path):
    stored = {
        name: t
        for name, t in weights.items()
        if name == kept or name not in ("token_embedding.weight", "lm_head.weight")
    }
    config = MODEL.config | {"tie_weights": True}
    checkpoint = open_checkpoint(save(tmp_path, {"model": stored, "config": config}))
    assert checkpoint.architecture.tied_head
    assert torch.equal(checkpoint.tensors["embedding.weight"].read(), weights[kept])


def test_tokenizer_beside_a_hugging_face_model_is_found(tmp_path):
    variant = VARIANTS["c-single"]
    path = variant.save(variant.build(), tmp_path)
    assert open_checkpoint(path).tokenizer is None
    (path / "tokenizer.json").write_text("{}")
    assert open_checkpoint(path).tokenizer == path / "tokenizer.json"
    assert open_checkpoint(path / "model.safetensors").tokenizer == path / "tokenizer.json"


# --- every variant --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_tensors_have_the_names_and_shapes_of_the_step_model_and_the_configuration_alone_makes_the_same(
    name: str, tmp_path
):
    checkpoint = open_checkpoint(VARIANTS[name].save(VARIANTS[name].build(), tmp_path))
    with torch.device("meta"):
        parameters = dict(Model(checkpoint.architecture).named_parameters())
    assert {n: tuple(p.shape) for n, p in parameters.items()} == {n: t.shape for n, t in checkpoint.tensors.items()}
    json.dumps(checkpoint.config, allow_nan=False)  # plain values
    (tmp_path / "again.json").write_text(json.dumps(checkpoint.config))
    family, architecture, config = read_config(tmp_path / "again.json")
    assert (family, architecture, config) == (checkpoint.family, checkpoint.architecture, checkpoint.config)


# --- damage ---------------------------------------------------------------------------------------------------------


def _reads_or_refuses(path: Path, config: Path | None = None) -> bool:
    """Whether a damaged checkpoint is still accepted; anything but a UserError fails the test."""
    try:
        for tensor in open_checkpoint(path, ReadOptions(config)).tensors.values():
            tensor.check()
    except UserError:
        return False
    return True


@pytest.mark.parametrize("name", ["a-no-conv", "a-mixed", "b-shards"])
def test_damaged_bytes_are_refused_or_harmless_and_never_crash(name: str, tmp_path):
    path = VARIANTS[name].save(VARIANTS[name].build(), tmp_path)
    file = path if path.is_file() else sorted(path.glob("*.safetensors"))[0]
    original, rng, refused = file.read_bytes(), random.Random(0), 0
    head = 9000 if path.is_dir() else len(original)  # the header; a zip archive has its directory at the end
    for _ in range(150):
        damaged = bytearray(original)
        for _ in range(rng.choice((1, 1, 3))):
            damaged[rng.randrange(min(head, len(damaged)))] = rng.randrange(256)
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(damaged)) :]
        file.write_bytes(damaged)
        refused += not _reads_or_refuses(path)
    assert refused > 10, "the damage did not reach anything"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**6) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("name", ["a-mixed", "b-single", "c-single"])
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(data=st.data())
def test_any_value_of_any_setting_is_accepted_or_refused_and_never_crashes(name: str, data, tmp_path_factory):
    folder, config = _saved(name, tmp_path_factory)
    assert _reads_or_refuses(folder / "weights", folder / "right.json")
    changed = copy.deepcopy(config)
    section = changed
    while True:
        key = data.draw(st.sampled_from(sorted(section)))
        if not isinstance(section[key], dict) or data.draw(st.booleans()):
            break
        section = section[key]
    section[key] = data.draw(_JSON)
    (folder / "given.json").write_text(json.dumps(changed))
    _reads_or_refuses(folder / "weights", folder / "given.json")
    try:
        read_config(folder / "given.json")
    except UserError:
        pass


_SAVED: dict[str, tuple[Path, dict[str, Any]]] = {}


def _saved(name: str, factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    if name not in _SAVED:
        folder = factory.mktemp(name)
        made = VARIANTS[name].save(VARIANTS[name].build(), folder / "weights")
        checkpoint = open_checkpoint(made)
        if made.is_file():
            made.rename(folder / "file")
            made.parent.rmdir()
            (folder / "file").rename(folder / "weights")
        else:
            for path in made.glob("*config*"):
                path.unlink()
        (folder / "right.json").write_text(json.dumps(checkpoint.config))
        _SAVED[name] = folder, dict(checkpoint.config)
    return _SAVED[name]
