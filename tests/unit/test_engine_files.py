"""Engines on disk: their sidecars, and which of them is run."""

import json

import pytest
from support.engine_files import place, record_for

from xlstm_export.bundle import Bundle
from xlstm_export.bundle.engine_record import FileHash, read_record, sidecar_of
from xlstm_export.engines.report import render
from xlstm_export.errors import UserError


@pytest.fixture
def bundle(export_variant, tmp_path):
    """A bundle's graph and manifest, with room for engines."""
    source = export_variant("b-single")[2]
    (tmp_path / "engines").mkdir()
    for name in ("model.onnx", "manifest.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    return tmp_path


def test_sidecar_reads_back_as_it_was_written(bundle):
    record = record_for(bundle)
    assert read_record(place(bundle, record)) == record


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda engine: engine.unlink(), "no engine at"),
        (lambda engine: sidecar_of(engine).unlink(), "has no x.engine.json beside it"),
        (lambda engine: sidecar_of(engine).write_text("{"), "is not valid JSON"),
        (lambda engine: sidecar_of(engine).write_text("[]"), "is no sidecar of an engine"),
        (lambda engine: sidecar_of(engine).write_text('{"format": "other"}'), "is no sidecar of an engine"),
        (lambda engine: edit(engine, engine_bytes="many"), 'engine_bytes is "many", not an integer'),
        (lambda engine: edit(engine, options={}), "options.version_compatible missing"),
        (lambda engine: edit(engine, batch=[1]), "batch is .1., not a list of 3 positive numbers"),
        (lambda engine: edit(engine, format_version=1), "has format version 1"),
        (lambda engine: edit(engine, profiles=["prefill", "decode"]), "profiles is"),
        (lambda engine: edit(engine, max_chunk=None), "max_chunk and the profile `prefill` go together"),
        (lambda engine: engine.write_bytes(b"pla"), "has 3 bytes, not 4"),
    ],
)
def test_damaged_engine_or_sidecar_is_one_message(harm, message, bundle):
    engine = place(bundle, record_for(bundle))
    harm(engine)
    with pytest.raises(UserError, match=message):
        read_record(engine)


def edit(engine, **changes):
    sidecar = sidecar_of(engine)
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | changes))


def test_the_newest_engine_that_fits_is_taken(bundle):
    import os

    old = place(bundle, record_for(bundle, "old.engine"))
    new = place(bundle, record_for(bundle, "new.engine", batch=(1, 1, 2)))
    place(bundle, record_for(bundle, "other.engine", runtime="tensorrt-rtx"))
    os.utime(old, (1, 1))
    assert Bundle.open(bundle).find_engine("tensorrt", 2).path == new
    assert Bundle.open(bundle).find_engine("tensorrt", 4).path == old
    assert Bundle.open(bundle).find_engine("tensorrt", 4, engine=old).path == old


@pytest.mark.parametrize(
    ("changes", "batch", "message"),
    [
        ({"runtime": "tensorrt-rtx"}, 1, "holds no engine for tensorrt.*build .* --runtime tensorrt"),
        ({}, 9, "takes batches 1 to 8, not 9"),
        ({"model": FileHash("model.onnx", "2" * 64)}, 1, "was built from another export"),
    ],
)
def test_engine_that_does_not_fit_is_not_run(changes, batch, message, bundle):
    place(bundle, record_for(bundle, **changes))
    with pytest.raises(UserError, match=message):
        Bundle.open(bundle).find_engine("tensorrt", batch)


def test_named_engine_of_another_runtime_is_refused(bundle):
    engine = place(bundle, record_for(bundle))
    with pytest.raises(UserError, match="is an engine for tensorrt, not for tensorrt-rtx"):
        Bundle.open(bundle).find_engine("tensorrt-rtx", 1, engine=engine)


def test_rendered_record_names_engine_targets_and_plugins(bundle):
    from rich.console import Console

    console = Console(width=120, record=True, file=open("/dev/null", "w"))
    console.print(render(record_for(bundle)))
    text = console.export_text()
    for word in ("x.engine", "sm89 (Some GPU)", "1 to 8, tuned for 2", "libxlstm_tensorrt.so, definitions stripped"):
        assert word in text
