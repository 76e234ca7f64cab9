"""Nothing in a checkpoint is run, and nothing in it takes all memory or time."""

from __future__ import annotations

import copyreg
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from support.archives import save_with_pickle, with_item
from support.hostile_pickles import CANARY, EXHAUSTING, RUNNING, pickled, text
from support.upstream_models import VARIANTS

from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.checkpoints.files.pickle_machine import BadPickle, take_apart
from xlstm_export.checkpoints.files.pickles import read_file
from xlstm_export.errors import UserError

MODEL = VARIANTS["a-all-mlstm"]  # its weights tell all


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return dict(MODEL.build(seed=0).state_dict())


def save(folder: Path, value: bytes, weights: dict[str, torch.Tensor]) -> Path:
    """A checkpoint with one value more, under `config`."""
    content = {"model": weights}
    return save_with_pickle(folder / "ckpt.pt", content, lambda _: with_item(content, "config", value))


CARELESS = ("PERSID", "persistent id", "REDUCE of torch.load", "BUILD of a fun", "REDUCE of a value", "string", "dtype")
"""What only a more careless loader than the standard library's would run."""


def test_every_opcode_that_calls_is_in_the_corpus():
    opcodes = {"REDUCE": b"R", "INST": b"i", "OBJ": b"o", "NEWOBJ": b"\x81", "NEWOBJ_EX": b"\x92", "BUILD": b"b"}
    opcodes |= {"EXT1": b"\x82", "EXT2": b"\x83", "EXT4": b"\x84", "PERSID": b"P", "BINPERSID": b"Q"}
    opcodes |= {"GLOBAL": b"c", "STACK_GLOBAL": b"\x93", "APPENDS": b"e", "SETITEM": b"s", "ADDITEMS": b"\x90"}
    for name, code in opcodes.items():
        assert any(code in value for value in RUNNING.values()), name


@pytest.mark.parametrize("name", [name for name in RUNNING if not name.startswith(CARELESS)])
def test_corpus_runs_code_in_a_real_unpickler(name: str, tmp_path, monkeypatch):
    """It is not harmless by a slip: the standard library's unpickler runs all of it (a harmless command)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hostile.py").write_text(f"open({CANARY!r}, 'w').close()")
    copyreg.add_extension("posix", "system", 0x7D)
    for protocol in (2, 4):
        try:
            made = pickle.loads(pickled(RUNNING[name], protocol))
            if isinstance(made, subprocess.Popen):
                made.wait()
        except Exception:  # afterwards
            pass
    copyreg.remove_extension("posix", "system", 0x7D)
    assert (tmp_path / CANARY).exists()


UNREADABLE = {"EXT1", "EXT2", "EXT4", "string with escapes"}

AUDIT = """
import copyreg, json, os, sys
from pathlib import Path
from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.errors import UserError
folder = Path(sys.argv[1])
for path in sorted(folder.glob("warm*.pt")):  # whatever is imported when first needed
    try:
        for tensor in open_checkpoint(path).tensors.values():
            tensor.check()
    except UserError:
        pass
copyreg.add_extension("posix", "system", 0x7D)
harmless = {"open", "os.listdir", "os.scandir", "glob.glob", "glob.glob/2", "pathlib.Path.glob", "builtins.id"}
events, current = [], None

def hook(event, arguments):
    if current is not None and event not in harmless:
        events.append((current, event, repr(arguments)[:200]))
    if current is not None and event == "open" and arguments[1] not in ("r", "rb", None):
        events.append((current, event, repr(arguments)[:200]))

sys.addaudithook(hook)
outcomes = {}
for path in sorted(folder.glob("*.pt")):
    current = path.name
    try:
        for tensor in open_checkpoint(path).tensors.values():
            tensor.check()
        outcome = "read"
    except UserError as error:
        outcome = str(error)
    current = None
    outcomes[path.name] = outcome
print(json.dumps({"events": events, "outcomes": outcomes}))
"""


def test_nothing_is_imported_called_or_written_whatever_a_checkpoint_holds(weights, tmp_path):
    """Python's own audit events are the witness, in a process of its own; among them is `pickle.find_class`."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    names = {}
    for index, (name, value) in enumerate(RUNNING.items()):
        names[f"{index:03}.pt"] = name
        save(folder, value, weights).rename(folder / f"{index:03}.pt")
        whole = save_with_pickle(folder / "whole.pt", {}, lambda _, value=value: pickled(value))
        whole.rename(folder / f"{index:03}-whole.pt")
    torch.save({"model": weights}, folder / "warm.pt")
    (folder / "warm-damaged.pt").write_bytes((folder / "warm.pt").read_bytes()[:-100])
    (folder / "warm-other.pt").write_bytes((folder / "001-whole.pt").read_bytes())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, str(folder)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["events"] == [], {event for _, event, _ in answer["events"]}
    assert not list(tmp_path.rglob(CANARY))
    for file, name in names.items():
        outcome = answer["outcomes"][file]
        assert outcome == "read" or name in UNREADABLE and "cannot be read" in outcome, f"{name}: {outcome}"
        assert answer["outcomes"][f"{file.removesuffix('.pt')}-whole.pt"] != "read", name


def test_audit_would_notice_an_unpickler(tmp_path):
    """The witness of the test above is not blind."""
    program = AUDIT.replace(
        'outcome = "read"', "outcome = \"read\"; import pickle; pickle.loads(b'cposix\\nsystem\\n.')"
    )
    torch.save({"model": dict(MODEL.build().state_dict())}, tmp_path / "warm.pt")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert "pickle.find_class" in {event for _, event, _ in json.loads(done.stdout)["events"]}


@pytest.mark.parametrize("name", EXHAUSTING)
def test_exhausting_pickle_is_read_or_refused_at_once(name: str, weights, tmp_path):
    started = time.process_time()
    path = save(tmp_path, EXHAUSTING[name], weights)
    try:
        checkpoint = open_checkpoint(path)
        assert set(checkpoint.upstream) == set(weights)
    except UserError as error:
        assert str(path) in str(error)
    whole = save_with_pickle(tmp_path / "whole.pt", {}, lambda _: pickled(EXHAUSTING[name], 5))
    with pytest.raises(UserError):
        read_file(whole)
    old = tmp_path / "old.pt"
    torch.save({}, old, _use_new_zipfile_serialization=False)
    head, end = old.read_bytes().split(pickled(b"}q\x00"))
    old.write_bytes(head + pickled(EXHAUSTING[name], 5) + end)
    with pytest.raises(UserError):
        read_file(old)
    assert time.process_time() - started < 30


MEMORY = """
import resource, sys
from pathlib import Path
from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).glob("*.pt")):
    try:
        open_checkpoint(path)
    except UserError:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_exhausting_pickles_stay_within_a_gigabyte(weights, tmp_path):
    for index, value in enumerate(EXHAUSTING.values()):
        save(tmp_path, value, weights).rename(tmp_path / f"{index:03}.pt")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1000, "megabytes"


def test_dictionary_is_a_list_of_pairs_whose_keys_may_be_anything():
    (key, value), *rest = take_apart(io.BytesIO(pickled(b"}]K\x01s}K\x02K\x03s"[:5]))).pairs
    assert (key, value, rest) == ([], 1, [])


# --- tensors that are described wrongly -----------------------------------------------------------------------------

HUGE = 1 << 40


def forge(
    shape: bytes, strides: bytes, offset: bytes = b"K\x00", numel: bytes = b"K\x04", key: bytes = text("0")
) -> bytes:
    """Opcodes of a tensor of float32 elements of storage 0, which has four."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + key + text("cpu") + numel + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides + b"\x89}tR"


def tuple_of(*values: int) -> bytes:
    return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values) + b"t"


FORGED = {
    "beyond its storage": forge(tuple_of(2, 3), tuple_of(3, 1)),
    "beyond its storage by its offset": forge(tuple_of(2), tuple_of(1), b"K\x03"),
    "beyond its storage by its strides": forge(tuple_of(2, 2), tuple_of(3, 1)),
    "of a storage that claims more than there is": forge(tuple_of(8), tuple_of(1), numel=b"K\x08"),
    "of a storage that is not there": forge(tuple_of(2), tuple_of(1), key=text("7")),
    "of a storage of another folder": forge(tuple_of(2), tuple_of(1), key=text("../data.pkl")),
    "negative strides": forge(tuple_of(2, 2), tuple_of(-2, 1), b"K\x02"),
    "negative offset": forge(tuple_of(2), tuple_of(1), b"J\xff\xff\xff\xff"),
    "negative size": forge(tuple_of(-2), tuple_of(1)),
    "negative storage": forge(tuple_of(2), tuple_of(1), numel=b"J\xff\xff\xff\xff"),
    "overlapping elements": forge(tuple_of(3, 3), tuple_of(0, 1)),
    "expanded without end": forge(tuple_of(HUGE, HUGE), tuple_of(0, 0)),
    "sizes whose product is no number of bits": forge(tuple_of(*(HUGE,) * 16), tuple_of(*(0,) * 16)),
    "sizes and strides of different length": forge(tuple_of(2, 2), tuple_of(1)),
    "a thousand axes": forge(tuple_of(*(1,) * 1000), tuple_of(*(1,) * 1000)),
    "sizes that are text": forge(text("22"), tuple_of(1)),
    "sizes that are true": forge(b"\x88\x85", tuple_of(1)),
    "no arguments": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    "parameters of parameters": b"ctorch._utils\n_rebuild_parameter\n" * 9 + b")R" + b"\x85R" * 8,
}


@pytest.mark.parametrize("name", FORGED)
def test_tensor_that_is_described_wrongly_is_not_read(name: str, tmp_path):
    content = {"four": torch.zeros(4)}
    path = save_with_pickle(tmp_path / "ckpt.pt", content, lambda _: with_item(content, "forged", FORGED[name]))
    tensors = read_file(path).tensors
    assert tensors["four"].read().shape == (4,)
    assert "forged" not in tensors or tensors["forged"].reason is not None


def test_view_with_gaps_is_copied_right(tmp_path):
    base = torch.arange(24.0)
    view = base.as_strided((3, 2), (8, 3), 1)
    torch.save({"w": view}, tmp_path / "view.pt")
    assert torch.equal(read_file(tmp_path / "view.pt").tensors["w"].read(), view)


# --- archives -------------------------------------------------------------------------------------------------------


def repacked(
    path: Path, weights: dict[str, torch.Tensor], compression: int = zipfile.ZIP_STORED, twice: bool = False
) -> Path:
    buffer = io.BytesIO()
    torch.save({"model": weights}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", compression) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
        if twice:
            with pytest.warns(UserWarning, match="Duplicate name"):
                target.writestr("archive/data.pkl", pickled(b"}"))
    return path


def test_archive_that_was_packed_again_uncompressed_is_read(weights, tmp_path):
    checkpoint = open_checkpoint(repacked(tmp_path / "ckpt.pt", weights))
    assert all(torch.equal(checkpoint.upstream[name].read(), tensor) for name, tensor in weights.items())


def test_compressed_archive_is_refused(weights, tmp_path):
    with pytest.raises(UserError, match="compressed or encrypted: it was packed again"):
        open_checkpoint(repacked(tmp_path / "ckpt.pt", weights, zipfile.ZIP_DEFLATED))


def test_archive_with_two_pickles_is_refused(weights, tmp_path):
    with pytest.raises(UserError, match="is there twice"):
        open_checkpoint(repacked(tmp_path / "ckpt.pt", weights, twice=True))


def test_changed_pickle_does_not_pass_its_checksum(weights, tmp_path):
    path = repacked(tmp_path / "ckpt.pt", weights)
    data = bytearray(path.read_bytes())
    at = data.index(b"lm_head.weight")
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="Bad CRC-32"):
        open_checkpoint(path)


def test_big_endian_file_is_refused(weights, tmp_path):
    buffer = io.BytesIO()
    torch.save({"model": weights}, buffer)
    path = tmp_path / "ckpt.pt"
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, b"big" if entry.filename.endswith("byteorder") else source.read(entry))
    with pytest.raises(UserError, match="big-endian"):
        open_checkpoint(path)


def test_opcode_that_no_checkpoint_needs_is_named():
    with pytest.raises(BadPickle, match="EXT1"):
        take_apart(io.BytesIO(pickled(RUNNING["EXT1"])))
