"""From one seed, C++ draws the tokens that Python draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.native import run

from xlstm_export.bundle import Bundle
from xlstm_export.runtime import open_session
from xlstm_export.runtime.generation import Generation
from xlstm_export.runtime.sampling import Sampler, Sampling

pytestmark = pytest.mark.usefixtures("cpu_and_one_thread")
Export = Callable[..., tuple[object, Path, Path]]
STEPS = 1000
SAMPLINGS = [
    Sampling(temperature=0),
    Sampling(temperature=0.8, seed=7),
    Sampling(temperature=1.3, top_k=5, seed=2**32 - 1),
    Sampling(temperature=1.0, top_p=0.7, seed=1),
    Sampling(temperature=0.5, top_k=40, top_p=0.95, seed=3),
]


def arguments(sampling: Sampling) -> tuple[object, ...]:
    return sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_the_same_seed_continues_a_prompt_with_the_tokens_that_python_draws(
    release: Path, export_variant: Export, sampling: Sampling
) -> None:
    bundle, prompt = export_variant("a-mixed")[2], [1, 5, 9, 96]
    with open_session(Bundle.open(bundle)) as session:
        expected = list(Generation(session, prompt, STEPS, Sampler(sampling)))
    driver, ids = release / "runtime_driver", ",".join(map(str, prompt))
    found = run(driver, "tokens", bundle, ids, STEPS, *arguments(sampling)).split()
    assert list(map(int, found)) == expected


def make_logits(width: int) -> np.ndarray:
    """(rows, width) float32: usual ones, many ties, masked tokens, and those of broken models."""
    random = np.random.default_rng(width)
    usual = random.normal(size=(200, width)) * 3
    kinds = [usual, np.round(usual), np.where(random.random(usual.shape) < 0.3, -np.inf, usual), np.zeros((3, width))]
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        kinds += [np.where(random.random((20, width)) < 2 / width, value, usual[:20]), np.full((3, width), value)]
    kinds.append(np.where(random.random(usual.shape) < 0.05, np.nan, kinds[2]))
    return random.permutation(np.concatenate(kinds)).astype(np.float32)


@pytest.mark.parametrize("sampling", [*SAMPLINGS, Sampling(temperature=1e-40, top_k=3), Sampling(1e300)], ids=str)
@pytest.mark.parametrize("width", [1, 2, 97, 1000])
def test_python_and_cpp_draw_the_same_tokens_from_the_same_logits_whatever_they_are(
    release: Path, tmp_path: Path, width: int, sampling: Sampling
) -> None:
    logits = make_logits(width)
    logits.tofile(tmp_path / "logits")
    found = run(release / "runtime_driver", "draw", tmp_path / "logits", width, *arguments(sampling)).split()
    sampler = Sampler(sampling)
    with np.errstate(over="ignore"):
        assert list(map(int, found)) == [sampler(row) for row in logits]
