"""The page of `inspect --html` in a real browser: it can be seen, asks for nothing, and texts in it stay texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Tab, open_tab  # pyright: ignore[reportMissingImports] - conftest.py sets the path

from mixstream_tools.cli import main

HOSTILE = (
    "<script>window.hit = 1; console.log('hit')</script>",
    '<img src=x onerror="window.hit = 1">',
    "</style><style>body { display: none }</style>",
    "\"><svg onload='window.hit = 1'>",
    "</span></div></section><h1>taken over</h1>",
    "<iframe src='https://example.com/'></iframe><link rel=stylesheet href='https://example.com/a.css'>",
    "\u202eright to left\u202c and \x1b[31mred and {{ 7*7 }} ${7*7}",
    "<a href='javascript:window.hit = 1'>click</a><form action='https://example.com/'><input name=q></form>",
)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with open_tab(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about three domains, whose texts, ids, files and names are hostile."""
    base = tmp_path_factory.mktemp("page")
    source = base / "src"
    (source / "books").mkdir(parents=True)
    book = {"text": "Once upon a time there was a page. " * 200, "id": "book"}
    (source / "books" / "<img src=x onerror=alert(1)>.jsonl").write_text(json.dumps(book))
    bad = [{"text": f"{text} {at}", "id": f"{text}{at}"} for at in range(3) for text in HOSTILE]
    copies = [{"text": "the same text", "id": f"copy{at}"} for at in range(10)]
    lines = [json.dumps(document) for document in bad + copies] + ['{"no": "<b onclick=alert(1)>text</b>"}']
    (source / "web.jsonl").write_text("\n".join(lines))
    arguments = ["--out", str(base / "out"), "--seq-len", "64", "--id-key", "id", "--on-bad-document", "skip"]
    named = [str(source / "books"), str(source / "web.jsonl"), f"a<i>b={source / 'web.jsonl'}"]
    for sources in (named[:2], named[2:]):
        assert main(["convert", *sources, *arguments, "--workers", "1"]) == 0
    assert main(["inspect", str(base / "out"), "--html", str(base / "page.html"), "--samples", "9"]) == 0
    return base / "page.html"


def check_is_inert(tab: Tab, page: Path) -> None:
    assert tab.requests() == [page.as_uri()]
    assert tab.complaints() == []
    assert tab.evaluate("window.hit === undefined && document.scripts.length === 0")
    made = "document.querySelectorAll('img, iframe, object, embed, form, input, a, style + style, body > *:not(main)')"
    assert tab.evaluate(f"{made}.length") == 0
    assert tab.evaluate("document.querySelectorAll('h1').length") == 1
    handlers = (
        "[...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).filter(a => /^on|^style$/.test(a.name))"
    )
    assert tab.evaluate(f"{handlers}.length") == 0


def test_the_page_shows_domains_plots_and_borders_and_nothing_in_it_runs(tab: Tab, page: Path) -> None:
    tab.open(page, width=1200)
    check_is_inert(tab, page)
    assert tab.evaluate("[...document.querySelectorAll('td.name')].map(e => e.textContent)") == [
        "books / train",
        "a<i>b / train",
        "web / train",
    ]
    boxes = tab.evaluate(
        "[...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect()).map(box => [box.width, box.height])"
    )
    assert len(boxes) > 8
    assert all(width > 20 and height > 5 for width, height in boxes)
    bars = tab.evaluate("[...document.querySelectorAll('svg.histogram rect')].map(e => e.getBBox().height)")
    assert len(bars) > 3
    assert min(bars) > 0
    documents = tab.evaluate(
        "[...document.querySelectorAll('.doc')].map(e => [e.className, e.offsetWidth > 0, "
        "getComputedStyle(e).backgroundColor])"
    )
    assert len(documents) > 4
    assert all(shown for _, shown, _ in documents)
    assert {name: color for name, _, color in documents}.keys() == {"doc a", "doc b"}
    assert len({color for _, _, color in documents}) == 2
    assert "end" in tab.evaluate("[...document.querySelectorAll('.special')].map(e => e.textContent)")
    text = tab.evaluate("document.body.textContent")
    for shown in ("<script>window.hit = 1", "</style><style>body", "Copies", "2 documents could not be read"):
        assert shown in text
    assert "\u202e" not in text
    assert "\\u202e" in text


def test_a_document_says_what_it_is_when_it_is_touched(tab: Tab, page: Path) -> None:
    tab.open(page, width=1200)
    told = tab.evaluate(
        "(() => { const e = [...document.querySelectorAll('.doc')].find(e => e.textContent.includes('right to left')); "
        "e.focus(); const tip = e.querySelector('.tip'); return [tip.offsetHeight, tip.innerText]; })()"
    )
    assert told[0] > 10
    assert "id \\u202eright to left\\u202c" in told[1]
    assert "file web.jsonl" in told[1]


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_light_and_dark(tab: Tab, page: Path, dark: bool) -> None:
    tab.open(page, width=390, height=844, dark=dark)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    background, ink = tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        ".map(c => Math.max(...c.match(/\\d+/g).slice(0, 3)))"
    )
    assert (background < 60 < 180 < ink) if dark else (ink < 60 < 180 < background)


def test_datasets_of_other_programs_are_shown_as_far_as_they_are_known(tab: Tab, tmp_path: Path) -> None:
    golden = Path(__file__).parents[2] / "data" / "mosaic"
    assert main(["inspect", str(golden), "--html", str(tmp_path / "page.html"), "--samples", "1"]) == 0
    tab.open(tmp_path / "page.html", width=900)
    check_is_inert(tab, tmp_path / "page.html")
    names = tab.evaluate("[...document.querySelectorAll('td.name')].map(e => e.textContent)")
    assert {"tokens", "documents_gz"} <= set(names)
    assert tab.evaluate("document.querySelectorAll('.row').length") > 5
