"""Node with ONNX Runtime, and a browser. Where one is missing, its tests are skipped and say so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlstm_export.cache import cache_folder, kept_folder

DRIVER = Path(__file__).parent / "drive.mjs"
ONNXRUNTIME_NODE = "onnxruntime-node@1.30.0"


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder in which npm installed ONNX Runtime for Node, kept for later runs."""
    if not (npm := shutil.which("npm")):
        pytest.skip("npm is not here")

    def make(scratch: Path) -> Path:
        folder = scratch / "node"
        folder.mkdir()
        # its script would download CUDA's half
        install = [npm, "install", "--silent", "--ignore-scripts", "--prefix", str(folder), ONNXRUNTIME_NODE]
        subprocess.run(install, check=True, cwd=folder)
        return folder

    return kept_folder(cache_folder() / "npm" / ONNXRUNTIME_NODE, make)


@pytest.fixture(scope="session")
def drive(packages: Path) -> Callable[..., list[Any]]:
    """`drive(bundle, batch, ["step", [3]], ...)` → what each call gave in Node, or `{"error": kind}`."""

    def call(bundle: Path, batch: int | None, *calls: list[Any]) -> list[Any]:
        request = json.dumps({"bundle": str(bundle), "batch": batch, "calls": calls})
        command = ["node", str(DRIVER), str(packages)]
        done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium is here")
    quiet = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    quiet += ["--disable-sync", "--disable-quic", *(["--no-sandbox"] if os.getuid() == 0 else [])]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=quiet)
        yield browser
        browser.close()
