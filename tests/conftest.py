"""Shared by all tests: bundles of random models, exported once a session and worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.paths import DEMO

# What this user has built must not decide what is tested: libraries are named where they are meant.
os.environ["XLSTM_EXPORT_LIBRARIES"] = str(Path(__file__).parent / "no-libraries-here")


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model as a float32 bundle with dynamic batch."""
    from xlstm_export.checkpoints import open_checkpoint
    from xlstm_export.exporter.write import export_bundle

    out = tmp_path_factory.mktemp("demo") / "kjv"
    export_bundle(open_checkpoint(DEMO), out)
    return out


@pytest.fixture(scope="session")
def export_variant(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[torch.nn.Module, Path, Path]]:
    """`export_variant("a-mixed", dtype="float16")` → upstream model, its checkpoint, its bundle; made once."""
    from support.upstream_models import VARIANTS

    from xlstm_export.checkpoints import open_checkpoint
    from xlstm_export.exporter import ExportOptions, export_bundle

    made: dict[tuple, tuple[torch.nn.Module, Path, Path]] = {}

    def export(name: str, dtype: str = "float32", batch: int | None = None, **options: object):
        key = (name, dtype, batch, *sorted(options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp(name)
            model = VARIANTS[name].build(seed=0)
            checkpoint = VARIANTS[name].save(model, folder / "checkpoint")
            export_bundle(open_checkpoint(checkpoint), folder / "bundle", ExportOptions(dtype, batch, **options))
            made[key] = (model, checkpoint, folder / "bundle")
        return made[key]

    return export
