"""The sampling kernel on a real GPU: the tokens that the host draws."""

from __future__ import annotations

import numpy as np
import pytest

from xlstm_export.runtime.sampling import Sampling

BATCH = 5
HOW = [
    Sampling(0.0),
    Sampling(1.0, seed=1),
    Sampling(0.7, top_k=5, seed=2),
    Sampling(1.0, top_p=0.8, seed=3),
    Sampling(2.0, top_k=40, top_p=0.9, seed=4),
    Sampling(1.0, top_k=1, top_p=0.5, seed=5),
    Sampling(0.3, top_p=1e-6, seed=6),
]


def make_logits(vocabulary: int, kind: str, random: np.random.Generator) -> np.ndarray:
    logits = random.normal(0, 3, (BATCH, vocabulary)).astype(np.float32)
    chosen = random.random(logits.shape)
    if kind == "tied":
        logits = logits.round()
    elif kind == "masked":
        logits[chosen < 0.3] = -np.inf
    elif kind == "equal":
        logits[:] = np.where(chosen < 0.5, 0.0, -0.0)
    elif kind == "infinite":
        logits[chosen < 0.02] = np.inf
    elif kind == "broken":
        logits[chosen < 0.02] = np.nan
    return logits


@pytest.fixture(scope="module")
def launchers(gpu_folder):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch is without CUDA")
    from gpu.launchers import Launchers

    return Launchers(gpu_folder, lambda: torch.cuda.current_stream().cuda_stream)


@pytest.mark.parametrize("sampling", HOW, ids=str)
@pytest.mark.parametrize("vocabulary", [1, 2, 97, 1000, 50304])
def test_device_draws_the_tokens_that_the_host_draws(launchers, vocabulary, sampling):
    import torch
    from gpu.sampler import DeviceDraw

    random = np.random.default_rng(vocabulary)
    draw = DeviceDraw(launchers, BATCH, vocabulary, sampling)
    for kind in ("usual", "tied", "masked", "equal", "infinite", "broken"):
        logits = torch.from_numpy(make_logits(vocabulary, kind, random)).cuda()
        draw(logits)
        assert draw.tokens.tolist() == draw.of_host(logits), kind


def test_draw_in_a_cuda_graph_follows_the_logits(launchers):
    import torch
    from gpu.sampler import DeviceDraw

    random = np.random.default_rng(0)
    draw = DeviceDraw(launchers, BATCH, 1000, HOW[4])
    logits = torch.zeros(BATCH, 1000, device="cuda")
    draw(logits)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        draw(logits)
    for _ in range(3):
        logits.copy_(torch.from_numpy(make_logits(1000, "usual", random)))
        graph.replay()
        assert draw.tokens.tolist() == draw.of_host(logits)
