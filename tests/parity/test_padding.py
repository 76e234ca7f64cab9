"""What stands in the padding of a pass does not matter, and a pass of nothing is an error, not a crash."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from xlstm_export.bundle import Bundle
from xlstm_export.errors import UserError
from xlstm_export.runtime import open_session

FAMILIES = ["a-mixed", "a-all-slstm", "a-stack", "b-single", "c-single"]
LENGTHS = np.array([5, 0, 2, 1])


def fill(manifest, padding):
    """A ragged pass whose padding holds `padding`, and the same with zeros there."""
    random, shape = np.random.default_rng(0), manifest.input.sized(4, 5)
    if manifest.vocab_size is None:
        inputs = random.standard_normal(shape, np.float32)
    else:
        inputs = random.integers(0, manifest.vocab_size, shape)
    beyond = np.arange(5) >= LENGTHS[:, None]
    clean, filled = inputs.copy(), inputs.copy()
    clean[beyond], filled[beyond] = 0, padding
    return clean, filled


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_padding_may_hold_anything(name, dtype, export_variant):
    bundle = Bundle.open(export_variant(name, dtype)[2])
    tokens = bundle.manifest.vocab_size is not None
    for padding in (-100, 10**9, -(2**63)) if tokens else (np.nan, np.inf, 1e38):
        results = []
        for inputs in fill(bundle.manifest, padding):
            with open_session(bundle, batch=4) as session:
                outputs = session.feed(inputs, LENGTHS)
                following = session.feed(inputs[:, :1], LENGTHS > 0)
                results.append([outputs[LENGTHS > 0], following[LENGTHS > 0], *session.read_states().values()])
        for clean, filled in zip(*results, strict=True):
            assert np.isfinite(clean).all()
            np.testing.assert_array_equal(filled, clean)


@pytest.mark.parametrize("token", [-1, 97, 10**9])
def test_token_that_counts_and_is_not_in_the_vocabulary_is_refused(token, export_variant):
    bundle = Bundle.open(export_variant("a-mixed")[2])
    with open_session(bundle, batch=2) as session:
        before = session.read_states()
        inputs = np.array([[1, 2, 3], [4, token, 6]])
        with pytest.raises(UserError, match=f"token {token} .* vocabulary of 97"):
            session.feed(inputs, np.array([3, 2]))
        for name, value in session.read_states().items():
            np.testing.assert_array_equal(value, before[name])
        assert session.feed(inputs, np.array([3, 1])).any()


RAW = """
import json, sys
import numpy as np, onnxruntime as ort

folder, rows, positions, library = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
manifest = json.load(open(f"{folder}/manifest.json"))
options = ort.SessionOptions()
options.log_severity_level = 4
for path in library:
    options.register_custom_ops_library(path)
session = ort.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])
width = manifest["inputs"][0]["shape"][2:]
feeds = {s["input"]: np.zeros([rows, *s["shape"][1:]], np.float32) for s in manifest["states"]}
feeds[manifest["inputs"][0]["name"]] = np.zeros([rows, positions, *width], manifest["inputs"][0]["dtype"])
if manifest["lengths"]:
    feeds["lengths"] = np.zeros(rows, np.int32)
try:
    outputs = session.run(None, feeds)
except Exception as error:
    print("refused:", "out of data bounds" in str(error))
else:
    print([output.shape for output in outputs])
"""


@pytest.mark.parametrize(
    ("mode", "rows", "positions"), [("both", 0, 3), ("both", 2, 0), ("both", 0, 0), ("step", 0, 1)]
)
@pytest.mark.parametrize("name", FAMILIES)
def test_pass_without_rows_or_positions_is_an_error_of_the_runtime(name, mode, rows, positions, export_variant):
    """In a process of its own, since without care it dies of SIGFPE (a batched product of no rows)."""
    folder = export_variant(name, mode=mode)[2]
    command = [sys.executable, "-c", RAW, str(folder), str(rows), str(positions)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "refused: True\n"), done.stderr
