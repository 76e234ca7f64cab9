"""Checkpoints as people have them, through the command line: inspected, exported, and validated against upstream."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.archives import vanishing_module
from support.command_line import call
from support.upstream_models import VARIANTS


def save(folder: Path, content: object) -> Path:
    torch.save(content, folder / "ckpt.pt")
    return folder / "ckpt.pt"


def variant(name: str) -> Callable[[Path], tuple[Path, list[str]]]:
    return lambda folder: (VARIANTS[name].save(VARIANTS[name].build(), folder), [])


def weights_of(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    return dict(VARIANTS[name].build(seed).state_dict())


class Optimiser:
    pass


def objects_beside(folder: Path) -> tuple[Path, list[str]]:
    with vanishing_module("my_training", Optimiser):
        beside = {"best": np.float64(0.5), "optimizer": Optimiser(), "lr": functools.partial(max, 1), "of": Optimiser}
        return save(folder, beside | {"model": weights_of("a-mixed"), "cfg": VARIANTS["a-mixed"].config}), []


def averaged(folder: Path) -> tuple[Path, list[str]]:
    both = {"model": weights_of("a-mixed"), "ema_model": weights_of("a-mixed", 1), "cfg": VARIANTS["a-mixed"].config}
    return save(folder, both), ["--select", "ema_model"]


def bare(folder: Path) -> tuple[Path, list[str]]:
    return save(folder, weights_of("a-relu")), ["--set", "slstm_block.feedforward.act_fn=relu"]


def within_a_network(folder: Path) -> tuple[Path, list[str]]:
    stack = {f"encoder.xlstm.{name}": tensor for name, tensor in weights_of("a-stack").items()}
    around = {"input_proj.weight": torch.ones(64, 3), "fc.weight": torch.ones(2, 64)}
    return save(folder, {"state_dict": stack | around, "config": VARIANTS["a-stack"].config}), []


def backbone_of_a_language_model(folder: Path) -> tuple[Path, list[str]]:
    return VARIANTS["c-single"].save(VARIANTS["c-single"].build(), folder), ["--select", "backbone"]


CHECKPOINTS = {
    "numbered shards with an index": variant("b-shards-index"),
    "numbered shards with an index and three settings": variant("c-jax-shards"),
    "pickled shards with an index among a trainer's files": variant("c-pickle-shards"),
    "projections called query, key and value": variant("c-old-names"),
    "two tables that are said to be one": variant("c-said-to-be-tied"),
    "a module pickled whole": variant("a-whole-module"),
    "a large module pickled whole": variant("b-whole-module"),
    "recurrent kernels in the portable layout": variant("a-portable-layout"),
    "objects beside the tensors": objects_beside,
    "one of two dictionaries": averaged,
    "weights alone and a setting": bare,
    "a stack within a network": within_a_network,
    "a backbone of transformers without its head": variant("c-backbone"),
    "a backbone of xLSTMLarge": variant("b-backbone"),
    "a language model of which the backbone is selected": backbone_of_a_language_model,
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoint_is_inspected_exported_and_equal_to_upstream(name: str, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    path, options = CHECKPOINTS[name](folder)
    code, shown, _ = call(capsys, monkeypatch, "inspect", path, *options)
    assert code == 0 and "width" in shown
    code, shown, error = call(capsys, monkeypatch, "onnx", path, "-o", tmp_path / "bundle", *options)
    assert code == 0, error
    arguments = ("validate", tmp_path / "bundle", "--checkpoint", path, "--steps", "24", "--batch", "2", *options)
    code, verdict, error = call(capsys, monkeypatch, *arguments)
    assert code == 0, verdict + error


def test_several_models_are_listed_with_what_selects_them(tmp_path, capsys, monkeypatch):
    path, _ = averaged(tmp_path)
    code, shown, _ = call(capsys, monkeypatch, "inspect", path)
    assert code == 0 and "--select model" in shown and "--select ema_model" in shown and "3 blocks of width 64" in shown
    code, shown, _ = call(capsys, monkeypatch, "inspect", path, "--json")
    assert [model["select"] for model in json.loads(shown)["models"]] == ["model", "ema_model"]
    code, _, error = call(capsys, monkeypatch, "onnx", path, "-o", tmp_path / "bundle")
    assert code == 2 and "Say which one is meant: --select model" in error
    assert not (tmp_path / "bundle").exists()


def test_model_without_a_head_gives_hidden_states_and_no_text(tmp_path, capsys, monkeypatch):
    path, _ = variant("c-backbone")(tmp_path / "checkpoint")
    bundle = tmp_path / "bundle"
    code, shown, error = call(capsys, monkeypatch, "onnx", path, "-o", bundle)
    assert code == 0 and "no head: hidden states" in shown, error
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["outputs"] == [{"name": "hidden", "dtype": "float32", "shape": ["batch", 1, 128]}]
    assert manifest["vocab_size"] == 97 and manifest["inputs"][0]["name"] == "tokens"
    code, _, error = call(capsys, monkeypatch, "generate", bundle)
    assert code == 2 and "gives vectors, not logits" in error
    code, _, error = call(capsys, monkeypatch, "validate", bundle, "--checkpoint", path, "--text", __file__)
    assert code == 2 and "gives hidden states, which say nothing of a text" in error


def test_setting_that_is_none_is_one_message(tmp_path, capsys, monkeypatch):
    path, _ = bare(tmp_path)
    code, _, error = call(capsys, monkeypatch, "inspect", path, "--set", "act_fn=relu")
    assert code == 2 and "--set act_fn: act_fn is no setting of xLSTMLMModelConfig" in error
    code, _, error = call(capsys, monkeypatch, "inspect", path, "--set", "act_fn")
    assert code == 2 and "expected KEY=VALUE" in error
