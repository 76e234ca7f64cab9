"""Engines on disk that nothing can run."""

from dataclasses import replace

from xlstm_export.bundle import Bundle
from xlstm_export.bundle.engine_record import BuildOptions, EngineRecord, EngineTensor, FileHash, sidecar_of
from xlstm_export.engines.targets import BatchRange, input_profiles


def record_for(bundle, name="x.engine", runtime="tensorrt", batch=(1, 2, 8), **changes):
    """The sidecar of an engine of a small language model, with other entries than usual where that is said."""
    manifest = Bundle.open(bundle).manifest
    model, manifest_hash = Bundle.open(bundle).hashes
    profiles = input_profiles(manifest, BatchRange(*batch), 64)
    record = EngineRecord(
        engine=FileHash(name, "0" * 64),
        engine_bytes=4,
        runtime=runtime,
        runtime_version="11.4.0.106",
        targets=("sm89",),
        gpu="Some GPU",
        dtype=manifest.dtype,
        batch=batch,
        profiles=("decode", "prefill"),
        max_chunk=64,
        tensors=(
            EngineTensor("tokens", "input", "int64", (-1, -1), tuple(p.tensors[0] for p in profiles)),
            EngineTensor("logits", "output", "float32", (-1, 1, 97), ()),
        ),
        model=model,
        manifest=manifest_hash,
        plugins=FileHash("libxlstm_tensorrt.so", "1" * 64),
        options=BuildOptions(False, True, False, True, False),
        seconds=1.5,
        producer={"xlstm-export": "0"},
    )
    return replace(record, **changes)


def place(bundle, record):
    """An engine of four bytes with this sidecar, in a bundle's folder of engines."""
    engine = bundle / "engines" / record.engine.name
    engine.write_bytes(b"plan")
    sidecar_of(engine).write_text(record.to_json())
    return engine
