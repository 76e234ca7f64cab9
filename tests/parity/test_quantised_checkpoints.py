"""Checkpoints that are quantised already: their integers are in the bundle, and it computes what they stand for."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.quantised_checkpoints import GROUP, compressed, gptq, write_folder
from support.upstream_models import VARIANTS

import xlstm_export
from xlstm_export.errors import UserError
from xlstm_export.runtime import open_session

GPTQ = {"quant_method": "gptq", "desc_act": False}
COMPRESSED = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"type": "int"}}}}
LAYOUTS = {
    "gptq, 4 bits": (GPTQ, partial(gptq, bits=4, symmetric=True, group=GROUP)),
    "gptq, zero points": (GPTQ, partial(gptq, bits=4, symmetric=False, group=64)),
    "gptq_v2, 8 bits, whole rows": (
        GPTQ | {"checkpoint_format": "gptq_v2"},
        lambda name, weight: gptq(name, weight, 8, True, weight.shape[1], "gptq_v2"),
    ),
    "auto-round": (
        {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "sym": True},
        partial(gptq, bits=4, symmetric=True, group=GROUP),
    ),
    "compressed-tensors, packed, zero points": (
        COMPRESSED | {"format": "pack-quantized"},
        partial(compressed, bits=4, symmetric=False, group=GROUP),
    ),
    "compressed-tensors, int8 rows": (
        COMPRESSED | {"format": "int-quantized"},
        lambda name, weight: compressed(name, weight, 8, True, weight.shape[1], packs=False),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_integers_are_kept_and_logits_are_those_of_the_dequantised_weights(tmp_path: Path, layout: str) -> None:
    config, pack = LAYOUTS[layout]
    model = VARIANTS["c-single"].build(seed=0)
    packed = write_folder(model, tmp_path / "checkpoint", config, pack)
    bundle = xlstm_export.export(tmp_path / "checkpoint", tmp_path / "bundle", logits="all")
    written = ir.load(bundle.model_file).graph.initializers
    matrices = [value for name, value in written.items() if name.endswith(".codes")]
    assert len(matrices) == len(packed)
    ours = {value.const_value.numpy().astype(np.int8).tobytes() for value in matrices}
    assert ours == {one.codes.T.contiguous().numpy().tobytes() for one in packed.values()}

    tokens = np.random.default_rng(0).integers(0, 50, (2, 12))
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)).logits.numpy()
    with open_session(bundle, batch=2, activations="float32") as session:
        actual = session.feed(tokens)
    # float32 over 2 blocks: `validation.tolerance` allows 32 roundings and some for the 12 steps
    assert np.abs(actual - expected).max() < 1e-4 * np.ptp(expected)


def _folder(tmp_path: Path, layout: str = "gptq, 4 bits", **settings: object) -> Path:
    config, pack = LAYOUTS[layout]
    write_folder(VARIANTS["c-single"].build(seed=0), tmp_path, config | settings, pack)
    return tmp_path


@pytest.mark.parametrize(
    "layout, settings, words",
    [
        ("gptq, 4 bits", {"quant_method": "awq"}, "quantization_config.quant_method = awq"),
        ("gptq, 4 bits", {"checkpoint_format": "marlin"}, "checkpoint_format = marlin"),
        ("auto-round", {"packing_format": "auto_round:auto_awq"}, "packing_format = auto_round:auto_awq"),
        ("compressed-tensors, int8 rows", {"format": "marlin-24"}, "format = marlin-24"),
        (
            "compressed-tensors, int8 rows",
            {"config_groups": {"a": {"weights": {"type": "int"}, "input_activations": {"num_bits": 8}}}},
            "config_groups.a.input_activations",
        ),
    ],
)
def test_layouts_that_are_not_read_are_refused_by_name(
    tmp_path: Path, layout: str, settings: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words) as refused:
        xlstm_export.export(_folder(tmp_path / "c", layout, **settings), tmp_path / "bundle")
    assert "xlstm-export quantize" in str(refused.value) and not (tmp_path / "bundle").exists()


def test_groups_in_the_order_of_activations_and_three_bits_are_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "c")
    tensors = load_file(folder / "model.safetensors")
    name = "backbone.blocks.0.mlstm_layer.q"
    order = tensors[f"{name}.g_idx"]
    save_file(tensors | {f"{name}.g_idx": order.flip(0)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=rf"{name}.g_idx .* orders inputs by activation \(desc_act\)"):
        xlstm_export.export(folder, tmp_path / "bundle")
    words = tensors[f"{name}.qweight"]
    save_file(tensors | {f"{name}.qweight": words[: len(words) * 3 // 4].contiguous()}, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"{name}.qweight .* has 3 bits a weight"):
        xlstm_export.export(folder, tmp_path / "bundle")
    assert json.loads((folder / "config.json").read_text())["quantization_config"]
