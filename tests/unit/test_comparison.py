"""`compare` puts bundles of one model side by side, and no others."""

from __future__ import annotations

import json
import shutil

import pytest
from rich.console import Console
from support.paths import DEMO
from support.small_networks import summing_network

from xlstm_export.bundle import Bundle
from xlstm_export.comparison import CompareOptions, compare_bundles, render, save_plot, to_json
from xlstm_export.comparison.compare import check_one_model
from xlstm_export.errors import UserError
from xlstm_export.quantization import QuantizeOptions
from xlstm_export.quantization.quantize import quantize_bundle


@pytest.fixture(scope="module")
def int4(demo_bundle, tmp_path_factory):
    out = tmp_path_factory.mktemp("quantised") / "kjv-int4"
    return quantize_bundle(Bundle.open(demo_bundle), out, QuantizeOptions("int4", method="rtn"))


def test_variants_are_measured_against_the_first_in_float32(demo_bundle, int4, tmp_path):
    options = CompareOptions(DEMO / "heldout.txt", steps=40, timed_steps=3)
    result = compare_bundles([int4, Bundle.open(demo_bundle)], options)
    assert result.reference == 1
    small, whole = result.variants
    assert (whole.quality.kl, whole.quality.top_one, whole.quality.drift, result.speed(whole)) == (0, 1, None, 1)
    assert whole.bits_per_weight == 32 and 4.5 < small.bits_per_weight < 10
    assert small.disk_bytes < whole.disk_bytes / 3 and small.step_bytes < whole.step_bytes / 3
    assert 1e-4 < small.quality.kl < 0.1 and 0.5 < small.quality.top_one < 1
    assert 0 < abs(small.quality.bits_per_byte - whole.quality.bits_per_byte) < 5 * small.quality.bits_error < 0.5
    data = json.loads(to_json(result))
    assert [v["weights"] for v in data["variants"]] == ["int4 / 32", "float32"]
    assert data["text_bytes"] == 160 and data["activations"] == "int8"
    console = Console(width=140, record=True)
    console.print(render(result))
    shown = console.export_text()
    assert "160 bytes" in shown and "int4 / 32" in shown and "int8 activations" in shown
    save_plot(result, tmp_path / "variants.png")
    assert (tmp_path / "variants.png").read_bytes().startswith(b"\x89PNG")


def test_bundles_of_other_models_are_refused(demo_bundle, export_variant, tmp_path):
    kjv, other = Bundle.open(demo_bundle), Bundle.open(export_variant("a-mixed")[2])
    with pytest.raises(UserError, match="not of one model"):
        check_one_model([kjv, other])
    with pytest.raises(UserError, match="two bundles or more"):
        check_one_model([kjv])
    network = Bundle.open(summing_network(tmp_path / "network"))
    with pytest.raises(UserError, match="no language model or block stack"):
        check_one_model([network, network])


def test_random_weights_of_one_architecture_are_compared_with_a_note(demo_bundle, tmp_path):
    folder = shutil.copytree(demo_bundle, tmp_path / "random")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["source"]["sha256"] = None
    (folder / "manifest.json").write_text(json.dumps(manifest))
    random = Bundle.open(folder)
    (note,) = check_one_model([random, random])
    assert "random" in note
    with pytest.raises(UserError, match="not of one model"):
        check_one_model([Bundle.open(demo_bundle), random])
