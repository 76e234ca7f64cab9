"""The documentation site: built without a warning, whole, and without a link that leads nowhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest
from support.paths import ROOT
from xlstm_docs.command_pages import leaves
from xlstm_docs.pages import page_names

import xlstm_export

pytestmark = pytest.mark.skipif(shutil.which("doxygen") is None, reason="doxygen is not here")


def sphinx(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as CONTRIBUTING.md builds it, elsewhere; warnings are errors."""
    folder = tmp_path_factory.mktemp("site")
    built = sphinx("-c", "docs", "-d", folder / "doctrees", ".", folder / "html")
    assert built.returncode == 0 and not built.stderr, built.stderr
    return folder


class Page(HTMLParser):
    """What a page can be reached by, and what it refers to."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors, self.links, self.resources = set[str](), set[str](), set[str]()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.add(found["href"])
        elif "src" in found:
            self.resources.add(found["src"])
        elif tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.resources.add(found["href"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in (site / "html").rglob("*.html")}


@pytest.mark.slow
def test_every_page_of_the_repository_is_on_the_site(pages, site):
    expected = {(site / "html" / name).with_suffix(".html") for name in page_names(ROOT)}
    expected |= {site / "html" / "docs/reference/commands" / f"{'-'.join(words)}.html" for words, _ in leaves()}
    assert len(expected) > 30 and expected <= pages.keys()
    assert (site / "html" / "index.html") in pages


@pytest.mark.slow
def test_no_link_on_the_site_leads_nowhere(pages):
    followed, dead = 0, []
    for path, page in pages.items():
        for link in page.links:
            where = urlsplit(link)
            if where.scheme:
                continue
            target = (path.parent / unquote(where.path)).resolve() if where.path else path
            anchors = pages[target].anchors if target in pages else set()
            if not target.is_file() or (where.fragment and target in pages and where.fragment not in anchors):
                dead.append(f"{path.name}: {link}")
            followed += 1
    assert followed > 1000 and dead == []


@pytest.mark.slow
def test_nothing_is_loaded_from_another_host(pages, site):
    resources = {resource for page in pages.values() for resource in page.resources}
    assert resources and not [r for r in resources if urlsplit(r).netloc]
    styles = [path.read_text("utf-8", errors="replace") for path in (site / "html").rglob("*.css")]
    assert styles and not [s for s in styles if re.search(r"(@import|url\()\s*['\"]?(https?:)?//", s)]


@pytest.mark.slow
def test_reference_has_all_that_is_public(pages, site):
    reference = site / "html" / "docs" / "reference"
    python = pages[reference / "python.html"].anchors
    names = [f"xlstm_export.{name}" for name in xlstm_export.__all__ if name != "__version__"]
    assert [name for name in names if name not in python] == []
    index = ElementTree.parse(site / "doxygen" / "xml" / "index.xml")
    text = "".join((reference / name).read_text("utf-8") for name in ("c.html", "cpp.html"))
    compounds = [c for c in index.iter("compound") if c.get("kind") in ("class", "struct")]
    compounds = [c.findtext("name") for c in compounds if not c.findtext("name").endswith("Impl")]
    functions = [
        member.findtext("name")
        for compound in index.iter("compound")
        if compound.get("kind") in ("file", "namespace")
        for member in compound.iter("member")
        if member.get("kind") in ("function", "enum", "typedef")
    ]
    assert len(compounds) > 20 and len(functions) > 30
    shown = set(re.findall(r'id="([\w.-]+)"', text))
    missing = [n for n in compounds + functions if not any(n.split("::")[-1] in anchor for anchor in shown)]
    assert missing == []


def test_a_dead_link_and_a_dead_anchor_fail_the_build(tmp_path):
    (tmp_path / "other.md").write_text("---\norphan: true\n---\n# Other\n\n## Here\n")
    how = ("-C", "-D", "extensions=myst_parser", "-D", "myst_heading_anchors=4", "-D", "root_doc=index")
    assert "myst_heading_anchors = 4" in (ROOT / "docs" / "conf.py").read_text()
    results = {}
    for link in ("other.md#here", "missing.md", "other.md#missing"):
        (tmp_path / "index.md").write_text(f"# Index\n\n[a link]({link})\n")
        results[link] = sphinx(*how, "-d", tmp_path / "trees", tmp_path, tmp_path / "html").returncode
    assert results == {"other.md#here": 0, "missing.md": 1, "other.md#missing": 1}
