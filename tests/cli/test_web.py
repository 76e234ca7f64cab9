"""`xlstm-export web` refuses what no page can show, with one message, and leaves nothing behind."""

from __future__ import annotations

import onnx
import pytest
from support.command_line import call

from xlstm_export.bundle import Bundle
from xlstm_export.exporter import ExportOptions, export_bundle
from xlstm_export.operators.schemas import use_definitions
from xlstm_export.quantization import QuantizeOptions
from xlstm_export.quantization.quantize import quantize_bundle


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("a-stack", {}, "for language models and forecasters"),
        ("a-mixed", {}, "has no tokenizer"),
        ("d-ckpt", {"batch": 2}, "has batch 2"),
        ("d-ckpt", {"dtype": "bfloat16"}, "--dtype float16"),
    ],
)
def test_bundle_without_a_page_is_one_message(name, options, says, export_variant, capsys, monkeypatch, tmp_path):
    bundle = export_variant(name, **options)[2]
    code, _, error = call(capsys, monkeypatch, "web", bundle, "-o", tmp_path / "site")
    assert code == 2 and says in " ".join(error.split()) and not list(tmp_path.iterdir())


def test_folder_that_is_no_site_is_not_touched(demo_bundle, capsys, monkeypatch, tmp_path):
    (tmp_path / "mine").write_text("mine")
    code, _, error = call(capsys, monkeypatch, "web", demo_bundle, "-o", tmp_path, "--overwrite")
    assert code == 2 and "is not a site" in " ".join(error.split())
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_definitions_are_exchanged_and_back_and_an_export_can_ask_for_them(export_variant, tmp_path):
    from xlstm_export.checkpoints import open_checkpoint

    _, checkpoint, path = export_variant("a-mixed")
    standard = onnx.load(Bundle.open(path).model_file, load_external_data=False)
    model = onnx.ModelProto.FromString(standard.SerializeToString())
    use_definitions(model, "linear-attention")
    asked = export_bundle(
        open_checkpoint(checkpoint), tmp_path / "asked", ExportOptions(definitions="linear-attention")
    )
    written = onnx.load(asked.model_file, load_external_data=False)
    assert [f.SerializeToString() for f in model.functions] == [f.SerializeToString() for f in written.functions]
    assert model.functions != standard.functions and model.graph.node == standard.graph.node
    small = quantize_bundle(asked, tmp_path / "small", QuantizeOptions("int8", method="rtn"))
    kept = {f.name: f for f in onnx.load(small.model_file, load_external_data=False).functions}
    assert "LinearAttention" in {node.op_type for node in kept["MLSTMCell"].node}
    use_definitions(model, "standard")
    assert list(model.functions) == list(standard.functions)
