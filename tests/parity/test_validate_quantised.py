"""`validate` passes quantised bundles for what they are, and catches codes or scales that are not the model's."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
from support.paths import DEMO

from xlstm_export.bundle import Bundle
from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.quantization import QuantizeOptions
from xlstm_export.quantization.quantize import quantize_bundle
from xlstm_export.validation import ValidationOptions, validate

OPTIONS = ValidationOptions(steps=40, batch=2, text=DEMO / "heldout.txt")


@pytest.fixture(scope="module", params=["int8", "int4"])
def quantised(request, demo_bundle, tmp_path_factory):
    out = tmp_path_factory.mktemp("quantised") / request.param
    return quantize_bundle(Bundle.open(demo_bundle), out, QuantizeOptions(request.param, method="rtn"))


def damage(bundle: Bundle, folder, name: str, change) -> Bundle:
    """A copy whose tensor of that name holds other bytes."""
    shutil.copytree(bundle.path, folder)
    (tensor,) = [t for t in bundle.graph.graph.initializer if t.name == name]
    where = {entry.key: entry.value for entry in tensor.external_data}
    data = np.memmap(folder / where["location"], np.uint8, "r+", int(where["offset"]), int(where["length"]))
    data[:] = change(data.copy(), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    data.flush()
    return Bundle.open(folder)


def test_quantised_bundle_passes_and_says_what_it_costs(quantised):
    report = validate(quantised, open_checkpoint(DEMO), OPTIONS)
    assert report.passed, [v.describe() for v in report.verdicts if not v.passed]
    kinds = [v.limit.kind for v in report.verdicts]
    assert kinds.count("kl") == len(report.runs) and kinds.count("text") == 1 and "contract" not in kinds
    assert "int8 activations" in report.notes[0]
    drift = report.runs[-1]
    assert 0.1 < np.mean(drift.kl) / np.mean(drift.kl_sensitivity) < 3 and drift.drift > 0


def test_codes_that_are_out_of_place_do_not_pass(quantised, tmp_path):
    """Neighbouring codes of one matrix change places, as when nibbles are packed the wrong way round."""

    def swapped(data, dtype):
        return data.reshape(-1, 2)[:, ::-1].reshape(-1)

    name = next(t.name for t in quantised.graph.graph.initializer if t.name.endswith("proj_down.weight.codes"))
    report = validate(damage(quantised, tmp_path / "b", name, swapped), open_checkpoint(DEMO), OPTIONS)
    assert not report.passed and report.fault is not None
    assert {v.limit.kind for v in report.verdicts if not v.passed} >= {"kl"}
