"""TiRex checkpoints as users have them: with settings, without, with old names, and as a configuration alone."""

from __future__ import annotations

from dataclasses import replace

import torch
import yaml
from rich.console import Console
from support.upstream_models import VARIANTS

from xlstm_export.checkpoints import ReadOptions, open_checkpoint, random_checkpoint, read_config
from xlstm_export.inspection import inspect_path, render
from xlstm_export.modeling.architecture import Patches

VARIANT = VARIANTS["d-ckpt"]
QUANTILES = VARIANT.config["model_config"]["quantiles"]


def test_weights_alone_are_read_when_what_they_do_not_tell_is_said(tmp_path):
    model = VARIANT.build()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    said = ReadOptions(overrides={"train_ctx_len": 128, "model_config.quantiles": QUANTILES})
    bare, whole = open_checkpoint(tmp_path / "weights.pt", said), open_checkpoint(VARIANT.save(model, tmp_path / "c"))
    assert bare.architecture == whole.architecture
    assert all(torch.equal(bare.tensors[name].read(), tensor.read()) for name, tensor in whole.tensors.items())


def test_configuration_alone_makes_the_architecture_that_its_weights_make(tmp_path):
    for name in ("d-ckpt", "d-wide-heads", "d-odd-heads", "d-folder"):
        variant = VARIANTS[name]
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(variant.config))
        family, architecture, config = read_config(tmp_path / "config.yaml")
        checkpoint = open_checkpoint(variant.save(variant.build(), tmp_path / name))
        assert family == "tirex" and architecture == checkpoint.architecture
        assert variant.family == checkpoint.family and config == checkpoint.config


def test_random_weights_of_a_configuration_fit_the_model(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(VARIANT.config))
    checkpoint = random_checkpoint(tmp_path / "config.yaml", 0)
    expected = open_checkpoint(VARIANT.save(VARIANT.build(), tmp_path / "c")).tensors
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }


def test_settings_that_upstream_takes_no_notice_of_are_told(tmp_path):
    variant = VARIANTS["d-unused-settings"]
    (note,) = open_checkpoint(variant.save(variant.build(), tmp_path)).notes
    assert "model_config.block_kwargs.backend, model_config.block_kwargs.dropout" in note
    assert "does not change what is exported" in note


def test_what_other_families_need_leaves_the_architecture_as_it_was(tmp_path):
    """The model's hash, and with it every saved state, is over it."""
    values = open_checkpoint(VARIANT.save(VARIANT.build(), tmp_path)).architecture.to_dict()
    assert list(values["patches"]) == ["length", "hidden_dim", "quantiles", "context"]
    assert "head_norm_eps" not in values["blocks"][0]
    with_activation = replace(Patches(8, 48, (0.5,), 128), activation="swish")
    changed = replace(open_checkpoint(tmp_path).architecture, patches=with_activation).to_dict()
    assert changed["patches"]["activation"] == "swish" and "out_hidden_dim" not in changed["patches"]


def test_inspection_calls_it_a_forecaster_and_shows_its_patches(tmp_path, capsys):
    path = VARIANT.save(VARIANT.build(), tmp_path)
    Console(width=200).print(render(inspect_path(path)))
    output = capsys.readouterr().out
    assert "width 64, 3 blocks, forecaster" in output
    assert "length 8, hidden_dim 48, quantiles (0.1, 0.2" in output and "context 128" in output
