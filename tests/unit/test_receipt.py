"""Receipts: how a bundle was made, so that it can be made again, and told from one that was changed."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from support.command_line import call
from support.upstream_models import VARIANTS

import xlstm_export
from xlstm_export.bundle import Bundle
from xlstm_export.bundle.receipt import RECEIPT_FILE, read_receipt
from xlstm_export.checksum import hash_files, sha256
from xlstm_export.errors import ErrorKind, UserError
from xlstm_export.inspection import inspect_bundle
from xlstm_export.quantization.options import QuantizeOptions
from xlstm_export.quantization.quantize import quantize_bundle
from xlstm_export.validation.receipts import check_receipt


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A user's current folder, with a checkpoint in shards."""
    variant = VARIANTS["c-shards"]
    variant.save(variant.build(seed=0), tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_receipts_command_makes_the_bundle_again_byte_for_byte(desk, capsys, monkeypatch):
    assert call(capsys, monkeypatch, "onnx", "model", "-o", "first", "--dtype", "float16")[0] == 0
    first = read_receipt(Path("first"))
    command = shlex.split(first.command)
    assert command == ["xlstm-export", "onnx", "model", "-o", "first", "--dtype", "float16"]
    shutil.move("first", "kept")
    assert call(capsys, monkeypatch, *command[1:])[0] == 0
    assert (Path("first") / RECEIPT_FILE).read_bytes() == (Path("kept") / RECEIPT_FILE).read_bytes()
    assert {entry.name for entry in first.files} == {"model.onnx", "manifest.json", "model.weights"}
    for entry in first.files:
        assert sha256(Path("first") / entry.name) == sha256(Path("kept") / entry.name) == entry.sha256


def test_inputs_are_the_shards_and_what_lies_beside_them(desk):
    xlstm_export.export("model", "b")
    receipt = read_receipt(Path("b"))
    names = {entry.name for entry in receipt.inputs}
    assert len([name for name in names if name.endswith(".safetensors")]) > 1 and "model/config.json" in names
    for entry in receipt.inputs:
        assert (entry.bytes, entry.sha256) == (Path(entry.name).stat().st_size, sha256(Path(entry.name)))
    assert {"python", "torch", "onnx", "xlstm-export"} <= receipt.versions.keys()


def test_linked_weights_are_in_the_receipt_as_the_files_that_they_are(desk):
    xlstm_export.export("model", "b", link_weights=True)
    receipt = read_receipt(Path("b"))
    linked = [entry for entry in receipt.files if entry.name.endswith(".safetensors")]
    assert linked and all(sha256(Path("b") / entry.name) == entry.sha256 for entry in linked)


def test_a_call_from_python_is_written_as_one(desk):
    bundle = xlstm_export.export(Path("model"), "b", dtype="bfloat16", overwrite=True)
    command = read_receipt(bundle.path).command
    assert command == "xlstm_export.export('model', 'b', dtype='bfloat16', overwrite=True)"
    before = (bundle.path / RECEIPT_FILE).read_bytes()
    eval(command, {"xlstm_export": xlstm_export})
    assert (bundle.path / RECEIPT_FILE).read_bytes() == before


def test_a_network_has_its_source_and_weights_in_the_receipt(tmp_path, capsys, monkeypatch):
    import torch
    from support.paths import ROOT

    source = ROOT / "models" / "examples" / "denoiser"
    monkeypatch.chdir(tmp_path)
    shutil.copy(source / "network.py", tmp_path)
    shutil.copy(source / "ckpt.pt", tmp_path)
    said = ["network.py:build", "--weights", "ckpt.pt", "--input", "noisy=B,S,32:float32"]
    with torch.random.fork_rng():
        assert call(capsys, monkeypatch, "onnx", *said, "-o", "b")[0] == 0
    receipt = read_receipt(tmp_path / "b")
    assert [entry.name for entry in receipt.inputs] == ["network.py", "ckpt.pt"]
    assert shlex.split(receipt.command)[2:] == [*said, "-o", "b"]


def test_a_quantised_bundle_has_the_receipt_of_the_one_it_was_made_from(desk, capsys, monkeypatch):
    bundle = xlstm_export.export("model", "b")
    result = quantize_bundle(bundle, Path("q"), QuantizeOptions("int8", method="rtn"), command="as typed")
    receipt = read_receipt(result.path)
    assert receipt.command == "as typed" and receipt.made_from == read_receipt(bundle.path)
    assert {Path(entry.name) for entry in receipt.inputs} == set(bundle.files)
    printed = call(capsys, monkeypatch, "inspect", "q")[1]
    assert printed.index("xlstm_export.export('model', 'b')") < printed.index("as typed")
    assert "model/config.json" in printed
    assert inspect_bundle(result).receipt == receipt


def test_a_file_that_changed_is_named(desk):
    bundle = xlstm_export.export("model", "b")
    inputs = [Path("model/config.json"), *Path("model").glob("*.safetensors")]
    good = check_receipt(bundle, inputs)
    assert good.passed and good.files == 3 and good.other_inputs == ()
    weights = Path("b/model.weights")
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(data)
    Path("model/config.json").write_text(Path("model/config.json").read_text() + "\n")
    found = check_receipt(bundle, inputs)
    assert not found.passed and found.changed == ("model.weights",)
    assert found.other_inputs == ("model/config.json",)
    weights.unlink()
    assert check_receipt(bundle, inputs).changed == ("model.weights",)


@pytest.mark.slow
def test_validate_fails_on_a_bundle_that_is_not_as_it_was_made(desk, capsys, monkeypatch):
    xlstm_export.export("model", "b")
    said = ["validate", "b", "--checkpoint", "model", "--steps", "3", "--batch", "1"]
    code, printed, _ = call(capsys, monkeypatch, *said)
    assert code == 0 and "Receipt: 3 files as they were made, by xlstm_export.export('model', 'b')." in printed
    manifest = Path("b/manifest.json")
    manifest.write_text(manifest.read_text() + "\n")
    code, printed, _ = call(capsys, monkeypatch, *said)
    assert code == 1 and "manifest.json changed since the bundle was made" in printed
    report = json.loads(Path("b/validation/report.json").read_text())
    assert not report["passed"] and report["receipt"]["changed"] == ["manifest.json"]
    Path("b", RECEIPT_FILE).unlink()
    code, printed, _ = call(capsys, monkeypatch, *said)
    assert code == 0 and "Receipt: none" in printed


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(format="xlstm-bundle"),
        lambda r: r.update(format_version=2),
        lambda r: r.update(format_version=True),
        lambda r: r.pop("made_from"),
        lambda r: r.pop("command"),
        lambda r: r.update(command=7),
        lambda r: r.update(versions={"python": 3}),
        lambda r: r["files"][0].update(name="../model.onnx"),
        lambda r: r["files"][0].update(sha256="0"),
        lambda r: r["inputs"][0].update(bytes=-1),
        lambda r: r.update(made_from=[]),
    ],
)
def test_a_damaged_receipt_is_one_clear_error_and_the_bundle_still_opens(change, export_variant, tmp_path):
    folder = shutil.copytree(export_variant("c-shards")[2], tmp_path / "b")
    receipt = json.loads((folder / RECEIPT_FILE).read_text())
    change(receipt)
    (folder / RECEIPT_FILE).write_text(json.dumps(receipt))
    with pytest.raises(UserError, match="delete it, or make the bundle again") as caught:
        read_receipt(folder)
    assert caught.value.kind is ErrorKind.bundle
    Bundle.open(folder).require_complete()


def test_files_are_hashed_one_by_one_and_together(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(path.name.encode() * 3)
    together = tmp_path / "together"
    together.write_bytes(b"aaabbb")
    found = hash_files(paths)
    assert found.whole == sha256(together)
    assert found.each == {path: sha256(path) for path in paths}
    link = tmp_path / "link"
    link.hardlink_to(paths[1])
    assert found.find(link) == sha256(paths[1]) and found.find(together) is None
