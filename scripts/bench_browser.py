#!/usr/bin/env python3
"""Tokens a second in headless Chromium and in Python, from one bundle, in one run.

    python scripts/bench_browser.py BUNDLE [--tokens 400] [--rounds 3]

Greedy decoding after a short prompt: the page of `xlstm-export web`, with both definitions of the mLSTM, and Python
sessions with the definitions and with our kernels. They take turns; rates are medians. Needs Chromium and `playwright`.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import re
import shutil
import tempfile
import threading
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.table import Table

import xlstm_export
from xlstm_export.runtime.sampling import Sampling
from xlstm_export.web import write_site

PROMPT = "In the beginning "
QUIET = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def in_browser(browser: Browser, site: Path, tokens: int) -> tuple[float, int]:
    """Tokens a second, and bytes downloaded."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector("body[data-ready]")
        used = {
            "/".join(Path(url).parts[2:])
            for url in page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
        }
        page.fill("#prompt", PROMPT)
        page.fill("#temperature", "0")
        page.fill("#tokens", str(tokens))
        page.click("#generate")
        page.wait_for_selector("#generate:enabled")
        rate = float(re.match(r"[\d.]+", page.text_content("#speed") or "")[0])
        page.close()
        server.shutdown()
    return rate, sum((site / name).stat().st_size for name in used if (site / name).is_file())


def in_python(bundle: xlstm_export.Bundle, custom_ops: Path | str, tokens: int) -> float:
    text = xlstm_export.generate(bundle, PROMPT, tokens, Sampling(temperature=0), custom_ops=custom_ops)
    for _ in text:
        pass
    return text.stats.new_tokens / text.stats.new_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    from xlstm_export.native.locate import ONNXRUNTIME_LIBRARY, choose_library

    bundle, library = xlstm_export.open_bundle(args.bundle), choose_library(ONNXRUNTIME_LIBRARY, None)
    rates: dict[str, list[float]] = {}
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*QUIET, "--no-sandbox"])
        sites = {}
        for definitions in ("standard", "linear-attention"):
            sites[definitions] = Path(scratch) / definitions
            write_site(bundle, sites[definitions], definitions=definitions)
        for _ in range(args.rounds):
            for definitions, site in sites.items():
                rate, downloaded = in_browser(browser, site, args.tokens)
                rates.setdefault(f"browser, {definitions}", []).append(rate)
            rates.setdefault("Python, definitions", []).append(in_python(bundle, "none", args.tokens))
            if library:
                rates.setdefault("Python, our kernels", []).append(in_python(bundle, library, args.tokens))
        browser.close()
    table = Table("what", "tokens a second", "least to most")
    for name, values in rates.items():
        table.add_row(name, f"{median(values):,.0f}", f"{min(values):,.0f} to {max(values):,.0f}")
    Console().print(table)
    print(f"downloaded: {downloaded / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
