"""Shared by all tests: bundles of random models, exported once a run, whichever worker needs them first."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from support.paths import DEMO

# What this user has built must not decide what is tested: libraries are named where they are meant.
os.environ["XLSTM_EXPORT_LIBRARIES"] = str(Path(__file__).parent / "no-libraries-here")


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all workers of this run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def demo_bundle(shared_folder: Path) -> Path:
    """The trained model as a float32 bundle with dynamic batch. Copy it before you write into it."""
    from xlstm_export.checkpoints import open_checkpoint
    from xlstm_export.exporter.write import export_bundle

    out = shared_folder / "kjv"
    with FileLock(shared_folder / "kjv.lock"):
        if not out.exists():
            export_bundle(open_checkpoint(DEMO), out)
    return out


@pytest.fixture(scope="session")
def export_variant(shared_folder: Path) -> Callable[..., tuple[torch.nn.Module, Path, Path]]:
    """`export_variant("a-mixed", dtype="float16")` → upstream model, its checkpoint, its bundle; made once.

    Copy the bundle before you write into it.
    """
    from support.upstream_models import VARIANTS

    from xlstm_export.checkpoints import open_checkpoint
    from xlstm_export.exporter import ExportOptions, export_bundle

    made: dict[Path, tuple[torch.nn.Module, Path, Path]] = {}

    def export(name: str, dtype: str = "float32", batch: int | None = None, **options: object):
        wanted = ExportOptions(dtype, batch, **options)
        folder = shared_folder / f"{name}-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:16]}"
        if folder not in made:
            model = VARIANTS[name].build(seed=0)
            bundle, saved_at = folder / "bundle", folder / "saved-at"
            with FileLock(f"{folder}.lock"):
                if not bundle.exists():
                    checkpoint = VARIANTS[name].save(model, folder / "checkpoint")
                    saved_at.write_text(str(checkpoint))
                    export_bundle(open_checkpoint(checkpoint), bundle, wanted)
            made[folder] = (model, Path(saved_at.read_text()), bundle)
        return made[folder]

    return export
