"""The site builds without a warning, needs nothing from elsewhere, is searched, and works in a browser."""

import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest

from unblot.cli.parser import make_parser

ROOT = Path(__file__).parents[2]
pytest.importorskip("mkdocs_static_i18n", reason="the site needs the extra docs")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WORDS = ["grainy", "resume", "caption", "NaN", "out of memory"]  # what a person with a question looks for


class Reader(HTMLParser):
    """What a page links to, what it loads, and the places in it that links can name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.loaded, self.places = list[str](), list[str](), {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.places.update(value for name in ("id", "name") if (value := found.get(name)))
        if tag == "a" and (href := found.get("href")):
            self.links.append(href)
        loading = {"img": "src", "script": "src", "iframe": "src", "source": "src", "link": "href"}.get(tag, "")
        if (value := found.get(loading)) and found.get("rel") not in ("canonical", "alternate", "prev", "next"):
            self.loaded.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The built site; with `strict` a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--config-file",
        str(ROOT / "mkdocs.yml"),
        "--site-dir",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Reader]:
    return {path: Reader(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Reader]) -> None:
    for path, page in pages.items():
        for value in page.loaded:
            if value.startswith("data:"):  # the pictures of a notebook stand in its page
                continue
            assert "//" not in value, f"{path.name} loads {value}"
            assert (path.parent / unquote(urldefrag(value)[0])).is_file(), f"{path.name} loads {value}"


def test_every_link_leads_somewhere(site: Path, pages: dict[Path, Reader]) -> None:
    for path, page in pages.items():
        for link in page.links:
            address, place = urldefrag(link)
            if not re.match(r"[a-z]+:", link) and address != "/404.html":
                target = (path.parent / unquote(address)).resolve() if address else path
                target = target / "index.html" if target.is_dir() else target
                assert target.is_file(), f"{path.relative_to(site)} links to {link}"
                known = pages[target].places if target in pages else {""}
                assert unquote(place) in known, f"{path.relative_to(site)} links to {link}"


def test_every_command_has_a_section(site: Path) -> None:
    text = html.unescape((site / "reference" / "commands.html").read_text())
    subparsers = make_parser()._subparsers
    assert subparsers is not None
    for name in subparsers._group_actions[0].choices or ():
        assert f'id="unblot-{name}"' in text
    assert "highest learning rate" in text


def test_the_services_are_described(site: Path) -> None:
    text = (site / "reference" / "rest.html").read_text()
    for request in ("POST /samples", "POST /edit", "GET /healthz", "POST /api/jobs", "GET /api/runs"):
        assert f"<code>{request}</code>" in text, request


@pytest.mark.parametrize("words", WORDS)
def test_search_finds(site: Path, words: str) -> None:
    """One section of the site has these words, as they are, in its title or its text."""
    entries = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    found = [e for e in entries if words.lower() in f"{e['title']} {re.sub('<[^>]+>', '', e['text'])}".lower()]
    assert found, words


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with driver.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def test_every_page_fits_into_400_pixels_and_reports_no_error(site: Path, browser: Any) -> None:
    """Opened from the disk, as `make docs` says; pages that are the same in both languages once."""
    shown = browser.new_page(viewport={"width": 400, "height": 800})
    wrong: list[str] = []
    shown.on("console", lambda m: wrong.append(f"{shown.url}: {m.text}") if m.type == "error" else None)
    shown.on("pageerror", lambda e: wrong.append(f"{shown.url}: {e}"))
    shown.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else wrong.append(r.url))
    for source in sorted(ROOT.glob("docs/**/*.md")):
        name, _, language = source.relative_to(ROOT / "docs").with_suffix("").as_posix().partition(".")
        page = site / language / f"{name}.html"
        shown.goto(page.as_uri(), wait_until="load")
        wide = shown.evaluate("document.documentElement.scrollWidth")
        if wide > 400:
            wrong.append(f"{page.relative_to(site)} is {wide} pixels wide")
    shown.close()
    assert wrong == []


def test_search_answers_in_a_browser(site: Path, browser: Any) -> None:
    shown = browser.new_page(viewport={"width": 1280, "height": 900})
    shown.set_default_timeout(60_000)
    shown.goto((site / "index.html").as_uri())
    field = shown.locator(".md-search__input")
    for words in WORDS:
        field.focus()
        shown.keyboard.press("Control+A")
        shown.keyboard.type(words)  # the search answers to keys, not to a value that is set
        shown.wait_for_selector(f".md-search-result__item mark:text('{words.split()[-1]}')", state="attached")
    shown.close()


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in ROOT.glob("docs/**/*.md") if ".zh." not in p.name}
    assert pages == set(re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE))


def test_every_picture_is_shown_by_a_page() -> None:
    shown = set()
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        links = re.findall(r"\]\(([\w./-]+)\)|src=\"([^\"]+)\"", page.read_text())
        shown |= {(page.parent / "".join(link)).resolve() for link in links}
    pictures = {path.resolve() for kind in ("png", "svg") for path in ROOT.glob(f"docs/**/*.{kind}")}
    assert sorted(path.name for path in pictures - shown) == []


def test_links_of_the_pages_outside_the_site_lead_to_files() -> None:
    for page in ROOT.glob("*.md"):
        for link in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", page.read_text()):
            address = urldefrag("".join(link))[0]
            assert re.match(r"[a-z]+:", address) or (ROOT / address).exists(), f"{page.name} links to {address}"
