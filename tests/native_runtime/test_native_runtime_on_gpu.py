"""libxlstm_runtime on a GPU. Without one these tests are skipped, and say so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.native import build_runtime, run

from xlstm_export.bundle import Bundle
from xlstm_export.native.locate import ONNXRUNTIME_LIBRARY, find_library
from xlstm_export.nvidia.driver import list_gpus

pytestmark = pytest.mark.skipif(not list_gpus(), reason="needs a GPU")
STEPS = 200


def steps(bundle: Path, inputs: np.ndarray, folder: Path, *named: str) -> tuple[str, np.ndarray]:
    """What it ran on, and the logits (steps, batch, V)."""
    inputs.tofile(folder / "inputs")
    driver = build_runtime() / "bin" / "runtime_driver"
    place = run(driver, "steps", bundle, inputs.shape[1], folder / "inputs", folder / "outputs", *named).strip()
    width = Bundle.open(bundle).manifest.output.shape[-1]
    return place, np.fromfile(folder / "outputs", np.float32).reshape(*inputs.shape, width)


def prefill(bundle: Path, prompts: list[np.ndarray], folder: Path, *named: str) -> np.ndarray:
    """Logits (2, batch, V) after the prompts, and after one more step."""
    np.concatenate(prompts).tofile(folder / "inputs")
    driver, lengths = build_runtime() / "bin" / "runtime_driver", ",".join(str(len(prompt)) for prompt in prompts)
    run(driver, "prefill", bundle, lengths, folder / "inputs", folder / "outputs", *named)
    return np.fromfile(folder / "outputs", np.float32).reshape(2, len(prompts), -1)


@pytest.mark.parametrize("graph", ["graph=1", "graph=0"])
@pytest.mark.parametrize("with_custom_ops", [False, True], ids=["definitions", "custom-ops"])
def test_onnxruntime_on_cuda_agrees_with_the_cpu_on_the_trained_model(
    demo_bundle: Path, tmp_path: Path, graph: str, with_custom_ops: bool
) -> None:
    library = find_library(ONNXRUNTIME_LIBRARY) if with_custom_ops else None
    if with_custom_ops and library is None:
        pytest.skip("needs the custom-op library with CUDA: xlstm-export plugins build")
    on_device = ["device=cuda", graph, *([f"custom_ops={library}"] if with_custom_ops else [])]
    tokens = np.random.default_rng(0).integers(32, 127, (STEPS, 2))
    _, expected = steps(demo_bundle, tokens, tmp_path, "threads=1")
    place, found = steps(demo_bundle, tokens, tmp_path, *on_device)
    assert place.startswith("onnxruntime cuda:0")
    if with_custom_ops and graph == "graph=1":
        assert place.endswith(" graph")  # the whole graph is on the GPU, so it must have been captured
    # float32 on both sides (TF32 is off), in another order of additions, over hundreds of recurrent steps.
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    prompts = [tokens[:150, 0], tokens[:0, 0], tokens[:7, 1]]
    on_cpu = prefill(demo_bundle, prompts, tmp_path, "threads=1", "chunk=64")
    on_gpu = prefill(demo_bundle, prompts, tmp_path, "chunk=64", *on_device)
    assert np.abs(on_gpu - on_cpu).max() < 1e-3 * np.abs(on_cpu).max()


@pytest.mark.parametrize("settings", ["0 0 1 0", "0.8 0 1 1", "1.0 40 0.9 2"])
def test_the_gpu_draws_the_tokens_that_the_host_draws_from_the_same_logits(demo_bundle: Path, settings: str) -> None:
    ids = run(
        build_runtime() / "bin" / "runtime_driver", "tokens", demo_bundle, "73,110,32", STEPS, *settings.split(), "cuda"
    )
    assert len(ids.split()) == STEPS


def test_tensorrt_agrees_with_the_cpu(export_variant: Callable[..., tuple], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt", reason="needs TensorRT")
    bundle = export_variant("a-mixed")[2]
    run(sys.executable, "-m", "xlstm_export.cli", "build", bundle, "--runtime", "tensorrt")
    engine = next((bundle / "engines").glob("*.engine"))
    tokens = np.random.default_rng(0).integers(0, 97, (STEPS, 1))
    _, expected = steps(bundle, tokens, tmp_path, "threads=1")
    place, found = steps(bundle, tokens, tmp_path, "device=cuda", f"engine={engine}")
    assert place == "tensorrt cuda:0 graph"
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    prompts = [tokens[:150, 0]]
    on_cpu = prefill(bundle, prompts, tmp_path, "threads=1", "chunk=64")
    on_gpu = prefill(bundle, prompts, tmp_path, "device=cuda", "chunk=64", f"engine={engine}")
    assert np.abs(on_gpu - on_cpu).max() < 1e-3 * np.abs(on_cpu).max()
