"""Bundle → a folder that any web server can serve, which runs the bundle in the browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx

from ..bundle import Bundle, Manifest
from ..bundle.destination import check_destination, new_folder
from ..bundle.manifest import BYTE_TOKENIZER, FILE_NAME, MODEL_FILE
from ..errors import ErrorKind, UserError
from ..operators.names import Definitions
from ..operators.schemas import use_definitions
from ..progress import Stage, no_progress
from .library import ONNXRUNTIME, TOKENIZERS, fetch_package

PAGE = Path(__file__).parent / "page"
SITE_FILE = "site.json"
"""What the page is told beside the manifest; a site is known by it."""


def write_site(
    bundle: Bundle,
    out: Path,
    title: str | None = None,
    definitions: Definitions = "linear-attention",
    overwrite: bool = False,
    stage: Stage = no_progress,
) -> None:
    """Write the page, the bundle and the libraries to the folder `out`.

    Args:
        bundle: of a language model with a tokenizer, or of a forecaster.
        out: made new; another site is replaced only with `overwrite`, anything else never.
        title: of the page; None: the folder's name.
        definitions: of the mLSTM, for browsers, which have no kernels of ours.

    Raises:
        UserError: there is no page for the bundle, `out` is in the way, or a library could not be had.
    """
    check_destination(out, overwrite, SITE_FILE, "site")
    bundle.require_complete()
    _check(bundle.manifest)
    packages = [ONNXRUNTIME]
    if bundle.manifest.tokenizer not in (None, BYTE_TOKENIZER):
        packages.append(TOKENIZERS)
    folders = [fetch_package(package, stage) for package in packages]
    with new_folder(out) as folder:
        tick = stage("Writing the site", None)
        shutil.copytree(PAGE, folder, dirs_exist_ok=True)
        (folder / SITE_FILE).write_text(json.dumps({"title": title or bundle.path.resolve().name}) + "\n", "utf-8")
        for source in folders:
            shutil.copytree(source, folder / "library", dirs_exist_ok=True)
        _copy_bundle(bundle, folder / "bundle", definitions)
        tick(1)


def _copy_bundle(bundle: Bundle, folder: Path, definitions: Definitions) -> None:
    folder.mkdir()
    tokenizer = bundle.manifest.tokenizer
    files = [FILE_NAME, *bundle.manifest.weight_files]
    for name in [*files, *([tokenizer] if tokenizer not in (None, BYTE_TOKENIZER) else [])]:
        shutil.copyfile(bundle.path / name, folder / name)
    model = onnx.load(bundle.model_file, load_external_data=False)
    use_definitions(model, definitions)
    (folder / MODEL_FILE).write_bytes(model.SerializeToString())


def _check(manifest: Manifest) -> None:
    """Refuse what the page cannot show or a browser cannot run."""
    remedy = "Take page/session.js of this package into a page of your own."
    if manifest.forecast is None and (manifest.vocab_size is None or not manifest.gives_logits):
        raise UserError(
            ErrorKind.argument, f"The page is for language models and forecasters, not for this bundle. {remedy}"
        )
    if manifest.forecast is None and manifest.tokenizer is None:
        raise UserError(
            ErrorKind.argument,
            "The bundle has no tokenizer, so the page could show no text. Export it with --tokenizer tokenizer.json.",
        )
    if manifest.dtype == "bfloat16" or any(state.dtype != "float32" for state in manifest.states):
        raise UserError(
            ErrorKind.argument,
            "Browsers run float32 and float16 bundles with float32 states. Export with --dtype float16, or quantise a "
            "float32 bundle.",
        )
    if manifest.batch not in (None, 1):
        raise UserError(ErrorKind.argument, f"The page runs one sequence, and the bundle has batch {manifest.batch}.")
