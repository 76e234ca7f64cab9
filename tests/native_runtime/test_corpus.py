"""The C++ readers of FORMAT.md answer as the Python readers do, on the corpus and on whatever else they are given."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random

import pytest
from support.corpus import BAD, GOOD, KINDS, STATE_BATCH, STATE_MANIFEST, check
from support.damage import damaged_json
from support.native import run

from xlstm_export.bundle import Bundle
from xlstm_export.checksum import sha256
from xlstm_export.errors import UserError

READERS = {"manifest": (), "engine": (), "state": (STATE_MANIFEST, STATE_BATCH)}


def cpp_answers(release: Path, kind: str, files: list[Path]) -> list[str]:
    """`ok`, or the kind of error, for each file."""
    return run(release / "runtime_driver", "check", kind, *READERS[kind], *files).splitlines()


@pytest.mark.parametrize("kind", READERS)
def test_cpp_and_python_answer_for_each_file_of_the_corpus_what_its_index_says(release: Path, kind: str) -> None:
    names = [name for name in (*GOOD, *BAD) if name.startswith(f"{kind}/")]
    files = [(GOOD | BAD)[name] if name in KINDS else GOOD[name] for name in names]
    expected = [KINDS.get(name, "ok") for name in names]
    found = cpp_answers(release, kind, files)
    assert {*expected} == {"ok", "state" if kind == "state" else "bundle"}
    assert dict(zip(names, found, strict=True)) == dict(zip(names, expected, strict=True))
    assert [check(name, file) for name, file in zip(names, files, strict=True)] == expected


@pytest.mark.parametrize("kind", ["manifest", "engine"])
def test_cpp_and_python_accept_the_same_of_damaged_files(release: Path, tmp_path: Path, kind: str) -> None:
    random, files = Random(kind), []
    good = [file.read_bytes() for name, file in GOOD.items() if name.startswith(kind)]
    for index in range(1000):
        files.append(tmp_path / f"{index}.json")
        files[-1].write_bytes(damaged_json(random.choice(good), random))
    expected = [check(f"{kind}/{file.name}", file) for file in files]
    assert expected.count("ok") > 50 and expected.count("bundle") > 500
    different = [f for f, a, b in zip(files, cpp_answers(release, kind, files), expected, strict=True) if a != b]
    assert not different, different[0].read_bytes()


def write_bundle(folder: Path, **changes: object) -> Bundle:
    """The corpus's `both.json` with these changes, and stand-ins for graph and weights."""
    folder.mkdir()
    manifest = json.loads(GOOD["manifest/both.json"].read_text()) | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "model.onnx").write_bytes(b"graph")
    for name in manifest["weight_files"]:
        (folder / name).write_bytes(name.encode() * 1000)
    return Bundle.open(folder)


def test_hash_of_a_model_is_the_same_in_cpp_and_python(release: Path, tmp_path: Path) -> None:
    random = Random(0)
    sizes = [10 ** random.uniform(-330, 308) for _ in range(3000)] + [2.0**power for power in range(-1074, 1024)]
    edges = [1e-4, 9.999e-5, 1e15, 1e16, 123456789012345.6, 999999999999999.9, 0.1, 5e-324, 1.7976931348623157e308]
    architecture = {
        "numbers": [*sizes, *(-size for size in edges), *edges, 0.0, -0.0, 0, -1, 2**64 - 1, -(2**63)],
        "texts": ["".join(map(chr, range(0xD800))), "\U0001f600\U0010ffff", "\ue000\uffff", ""],
        **{key: {} for key in ("é", "z", "~", "\U00010000", "\uffff", 'a"', "a\\", "\n", "")},
    }
    source = {"path": "x", "sha256": None}
    bundles = [
        write_bundle(tmp_path / "hashed", architecture=architecture),
        write_bundle(tmp_path / "random", source=source, weight_files=["b.safetensors", "a.safetensors"]),
        write_bundle(tmp_path / "random-turned", source=source, weight_files=["a.safetensors", "b.safetensors"]),
    ]
    found = [run(release / "runtime_driver", "hash", bundle.path / "manifest.json").strip() for bundle in bundles]
    assert found == [bundle.model_hash for bundle in bundles]
    assert len({*found}) == 3


NAMES = ["a.engine", "b.engine", "é.engine", "Z.engine", ".engine", "c.plan"]


def write_engine(bundle: Bundle, name: str, random: Random) -> None:
    """An engine for the bundle, which may or may not fit."""
    engine, record = bundle.path / "engines" / name, json.loads(GOOD["engine/ahead-of-time.json"].read_text())
    engine.parent.mkdir(exist_ok=True)
    engine.write_bytes(b"0123456789")
    for key, file in (("model", "model.onnx"), ("manifest", "manifest.json")):
        record[key] = {"name": file, "sha256": sha256(bundle.path / file)}
    record["engine_bytes"] = random.choice([10, 10, 10, 11])
    record["runtime"] = random.choice(["tensorrt", "tensorrt", "tensorrt", "tensorrt-rtx"])
    record["runtime_version"] = random.choice(["10.14.1", "11.0", "011"])
    record["options"]["version_compatible"] = random.random() < 0.2
    record["batch"] = random.choice([[1, 1, 1], [1, 2, 4], [2, 2, 8]])
    if random.random() < 0.2:
        record[random.choice(["model", "manifest"])] |= random.choice([{"sha256": "0" * 64}, {"name": "other"}])
    text = json.dumps(record)
    text = random.choice([text] * 6 + [text[: len(text) // 2], None])
    if text is not None:
        (engine.parent / f"{name}.json").write_text(text)
    if random.random() < 0.05:
        engine.unlink()
        engine.mkdir()
    time = random.choice([1_000_000_000, 2_000_000_000, 2_000_000_001]) * 1_000_000_000
    os.utime(engine, ns=(time, time + random.choice([0, 0, 1])))


def test_cpp_and_python_choose_the_same_engine_or_fail_with_the_same_kind(release: Path, tmp_path: Path) -> None:
    random, answers = Random(1), []
    for index in range(150):
        bundle = write_bundle(tmp_path / str(index))
        for name in random.sample(NAMES, random.randrange(5)):
            write_engine(bundle, name, random)
        if random.random() < 0.03:
            bundle.model_file.unlink()
        named = bundle.path / "engines" / "a.engine" if random.random() < 0.3 else None
        batch, major = random.choice([None, 1, 4, 9]), random.choice([10, 11])
        try:
            expected = str(bundle.find_engine("tensorrt", batch, major, named).path)
        except UserError as error:
            expected = error.kind.name
        arguments = (bundle.path, batch or 0, major, *([named] if named else []))
        assert run(release / "runtime_driver", "engine", *arguments).strip() == expected, bundle.path
        answers.append("found" if "/" in expected else expected)
    assert all(answers.count(answer) > 5 for answer in ("found", "bundle", "unavailable", "argument"))
