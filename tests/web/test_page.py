"""The page in headless Chromium: it loads, writes what Python writes, keeps a conversation, and draws forecasts."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT

import xlstm_export
from xlstm_export.runtime.sampling import Sampling
from xlstm_export.web import write_site

PROMPT, TOKENS = "In the beginning ", 200
PATIENCE = 120_000  # milliseconds, on a busy machine


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder's address. The server sends no headers for threads, as most do not."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def opened(browser, address: str):
    """The page, ready, and on a telephone; nothing may fail, and nothing may be asked of another server."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(PATIENCE)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: r.url.startswith((address, "blob:", "data:")) or wrong.append(r.url))
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    yield page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out
    assert not wrong
    page.close()


def finished(page, button: str) -> None:
    page.wait_for_selector(f"#{button}:enabled")


@pytest.fixture(scope="module")
def site(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("npm"):
        pytest.skip("npm is not here")
    folder = tmp_path_factory.mktemp("site") / "kjv"
    write_site(xlstm_export.open_bundle(demo_bundle), folder, title="King James")
    return folder


def test_page_writes_what_python_writes_and_goes_on_from_a_saved_conversation(site, demo_bundle, browser, tmp_path):
    bundle = xlstm_export.open_bundle(demo_bundle)
    greedy = "".join(xlstm_export.generate(bundle, PROMPT, TOKENS + 40, Sampling(temperature=0)))
    with served(site) as address, opened(browser, address) as page:
        assert page.title() == "King James"
        assert page.evaluate("crossOriginIsolated")  # by the service worker: threads
        page.fill("#prompt", PROMPT)
        page.fill("#temperature", "0")
        page.fill("#tokens", str(TOKENS))
        page.keyboard.press("Control+Enter")
        finished(page, "generate")
        assert page.text_content("#transcript") == PROMPT + greedy[:TOKENS]
        assert "tokens a second" in page.text_content("#speed")
        with page.expect_download() as download:
            page.click("#save")
        download.value.save_as(tmp_path / "conversation.json")
        page.reload()
        page.wait_for_selector("body[data-ready]")
        (tmp_path / "damaged.json").write_text("{}")
        page.set_input_files("#file", tmp_path / "damaged.json")
        page.wait_for_selector("#error:not([hidden])")
        page.set_input_files("#file", tmp_path / "conversation.json")
        page.wait_for_selector("#transcript .made")
        page.fill("#temperature", "0")
        page.fill("#tokens", "40")
        page.click("#generate")
        finished(page, "generate")
        assert page.text_content("#transcript") == PROMPT + greedy
        page.fill("#tokens", "100000")
        page.click("#generate")
        page.keyboard.press("Escape")
        finished(page, "generate")
        page.click("#restart")
        finished(page, "restart")
        assert page.text_content("#transcript") == ""


def test_page_draws_the_forecast_that_python_makes(export_variant, browser, tmp_path):
    bundle = xlstm_export.open_bundle(export_variant("d-ckpt")[2])
    write_site(bundle, tmp_path / "site")
    rows = (ROOT / "models" / "series" / "sunspots.csv").read_text().splitlines()[1:]
    values = [row.split(",")[-1] for row in rows]
    expected = xlstm_export.forecast(bundle, np.array([float(v) for v in values]), 20).values[0]
    with served(tmp_path / "site") as address, opened(browser, address) as page:
        page.fill("#series", ", ".join(values))
        page.fill("#horizon", "20")
        page.click("#forecast")
        page.wait_for_selector("#figure:not([hidden])")
        assert page.locator("#plot path.median").get_attribute("d").count("L") == 19
        with page.expect_download() as download:
            page.click("#csv")
        table = np.loadtxt(download.value.path(), delimiter=",", skiprows=1)
        np.testing.assert_allclose(table[:, 1:], expected, rtol=0, atol=1e-4 * np.ptp(expected))
        page.fill("#series", "1, 2, three")
        page.click("#forecast")
        page.wait_for_selector("#error:not([hidden])")
        assert "three" in page.text_content("#error")


def test_page_says_what_is_missing(site, browser, tmp_path):
    damaged = shutil.copytree(site, tmp_path / "damaged")
    (damaged / "bundle" / "model.weights").unlink()
    with served(damaged) as address:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#error:not([hidden])", timeout=PATIENCE)
        assert "model.weights" in page.text_content("#error") and "404" in page.text_content("#error")
        page.close()
