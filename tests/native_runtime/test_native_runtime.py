"""libxlstm_runtime on ONNX Runtime's CPU provider computes bit for bit what Python computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.native import attempt, onnxruntime_operators
from support.native_sessions import (
    make_inputs,
    make_prompts,
    native_prefill,
    native_steps,
    python_prefill,
    python_steps,
)

from xlstm_export.bundle import Bundle
from xlstm_export.quantization import QuantizeOptions
from xlstm_export.quantization.quantize import quantize_bundle
from xlstm_export.runtime import open_session

pytestmark = pytest.mark.usefixtures("cpu_and_one_thread")
Export = Callable[..., tuple[object, Path, Path]]
STEPS = 1000
CASES = [  # every family; both dtypes that the CPU computes; a block stack; a batch; a batch fixed at export
    ("a-mixed", "float32", None, 1),
    ("a-mixed", "float16", None, 3),
    ("a-stack", "float32", None, 2),
    ("b-single", "float32", 2, 2),
    ("b-fused-bias", "float16", None, 1),
    ("c-single", "float32", None, 1),
]

PREFILL_CASES = [  # rows of different lengths, some idle; a block stack; a batch fixed at export
    ("a-mixed", "float32", None, (300, 1, 0, 65)),
    ("a-mixed", "float16", None, (270,)),
    ("a-stack", "float32", None, (130, 130)),
    ("b-single", "float32", 2, (0, 80)),
    ("c-single", "float32", None, (257, 64, 7)),
]


@pytest.mark.parametrize("name, dtype, fixed, batch", CASES)
def test_logits_are_pythons_to_the_last_bit(
    release: Path, export_variant: Export, tmp_path: Path, name: str, dtype: str, fixed: int | None, batch: int
) -> None:
    bundle = export_variant(name, dtype, fixed)[2]
    inputs = make_inputs(bundle, STEPS, batch)
    expected, found = python_steps(bundle, inputs), native_steps(release, bundle, inputs, tmp_path)
    assert expected.std() > 0.01
    assert expected.tobytes() == found.tobytes()


@pytest.mark.parametrize("name, dtype, fixed, batch", CASES)
def test_logits_are_pythons_to_the_last_bit_with_the_custom_operators(
    release: Path,
    export_variant: Export,
    tmp_path: Path,
    name: str,
    dtype: str,
    fixed: int | None,
    batch: int,
) -> None:
    bundle = export_variant(name, dtype, fixed)[2]
    inputs = make_inputs(bundle, STEPS, batch)
    library = onnxruntime_operators()
    expected = python_steps(bundle, inputs, library)
    found = native_steps(release, bundle, inputs, tmp_path, f"custom_ops={library}")
    assert expected.tobytes() == found.tobytes()


@pytest.mark.parametrize("activations", ["int8", "float32"])
def test_a_quantised_bundle_is_pythons_to_the_last_bit(
    release: Path, export_variant: Export, tmp_path: Path, activations: str
) -> None:
    source = Bundle.open(export_variant("a-tied")[2])
    bundle = quantize_bundle(source, tmp_path / "bundle", QuantizeOptions("int4"))
    inputs = make_inputs(bundle.path, 100, 2)
    with open_session(bundle, batch=2, activations=activations) as session:
        expected = np.stack([session.step(step) for step in inputs])
    found = native_steps(release, bundle.path, inputs, tmp_path, f"activations={activations}")
    assert expected.tobytes() == found.tobytes()


@pytest.mark.parametrize("chunk", [None, 64, 7, 1])
@pytest.mark.parametrize("with_custom_ops", [False, True], ids=["definitions", "custom-ops"])
@pytest.mark.parametrize("name, dtype, fixed, lengths", PREFILL_CASES)
def test_prompts_give_the_logits_that_python_gives_to_the_last_bit(
    release: Path,
    export_variant: Export,
    tmp_path: Path,
    name: str,
    dtype: str,
    fixed: int | None,
    lengths: tuple[int, ...],
    with_custom_ops: bool,
    chunk: int | None,
) -> None:
    library = onnxruntime_operators() if with_custom_ops else None
    named = [*([f"custom_ops={library}"] if with_custom_ops else []), *([f"chunk={chunk}"] if chunk else [])]
    for logits in ("last", "all"):
        bundle = export_variant(name, dtype, fixed, logits=logits)[2]
        prompts = make_prompts(bundle, lengths)
        expected, next_expected, _ = python_prefill(bundle, prompts, chunk, library)
        after, following = native_prefill(release, bundle, prompts, tmp_path, *named)
        assert expected.std() > 0.01
        assert after.tobytes() == expected.tobytes()
        assert following.tobytes() == next_expected.tobytes()


def test_a_block_stack_can_be_fed_its_own_outputs(release: Path, export_variant: Export, tmp_path: Path) -> None:
    bundle = export_variant("a-stack")[2]
    prompts = make_prompts(bundle, (9, 9))
    after, found = native_prefill(release, bundle, prompts, tmp_path, "feedback=1")
    with open_session(Bundle.open(bundle), batch=2) as session:
        assert session.prefill(prompts).tobytes() == after.tobytes()
        assert session.prefill(list(after)).tobytes() == found.tobytes()


@pytest.mark.parametrize("name", ["a-mixed", "a-stack"])
def test_prompts_go_step_by_step_where_the_bundle_takes_only_steps(
    release: Path, export_variant: Export, tmp_path: Path, name: str
) -> None:
    bundle = export_variant(name, mode="step")[2]
    prompts = make_prompts(bundle, (9, 9))
    inputs = np.stack(prompts, 1).reshape(9, *Bundle.open(bundle).manifest.input.sized(2))
    expected = native_steps(release, bundle, np.concatenate([inputs, np.zeros_like(inputs[:1])]), tmp_path)
    found = native_prefill(release, bundle, prompts, tmp_path)
    assert np.stack(found).tobytes() == expected[-2:].tobytes()


def test_prompts_of_different_lengths_are_refused_where_the_bundle_takes_only_steps(
    release: Path, export_variant: Export, tmp_path: Path
) -> None:
    bundle = export_variant("a-mixed", mode="step")[2]
    np.zeros(5, np.int64).tofile(tmp_path / "inputs")
    files = (tmp_path / "inputs", tmp_path / "outputs")
    done = attempt(release / "runtime_driver", "prefill", bundle, "2,3", *files, "threads=1")
    assert done.returncode == 2
    assert "prefill got prompts of 2 to 3 tokens, but this model goes step by step" in done.stderr
    assert "--mode both" in done.stderr
