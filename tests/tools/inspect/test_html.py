"""`inspect --html` and data cards in `inspect`, as far as no browser is needed to see it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mixstream as ms
from mixstream.formats import INDEX_HASHES
from mixstream.storage import Store
from mixstream_tools.cli import main
from mixstream_tools.inspect.borders import by_end_token, covers
from mixstream_tools.inspect.html.elements import line, prose, tag


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of two domains, with documents shorter and longer than a row."""
    base = tmp_path_factory.mktemp("made")
    lines = [json.dumps({"text": f"short {at} " * (at % 9 + 1), "id": f"id-{at}", "url": f"u{at}"}) for at in range(60)]
    (base / "web.jsonl").write_text("\n".join(lines))
    (base / "book.jsonl").write_text(json.dumps({"text": "A long book. " * 400, "id": "book"}))
    sources = [str(base / "web.jsonl"), str(base / "book.jsonl")]
    options = ["--seq-len", "64", "--id-key", "id", "--keep", "url", "--workers", "1"]
    assert main(["convert", *sources, "--out", str(base / "out"), *options]) == 0
    return base / "out"


def page_of(url: object, *options: object, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """The page of a URL, and what is said on stderr."""
    capsys.readouterr()
    assert main(["inspect", str(url), "--html", "-", *map(str, options)]) == 0
    told = capsys.readouterr()
    return told.out, told.err


def test_the_page_is_one_file_the_same_each_time(made, tmp_path, capsys):
    page, _ = page_of(made, capsys=capsys)
    assert page.startswith("<!doctype html>")
    assert not re.findall(r"<script|<a |<img|<iframe|https?://|\bon\w+=|\bstyle=|url\(", page)
    assert main(["inspect", str(made), "--html", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text() == page
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert "page.html" in capsys.readouterr().err


def test_documents_in_rows_are_those_of_the_sidecar(made, capsys):
    page, _ = page_of(made, "--samples", 2, capsys=capsys)
    tips = re.findall(r'role="tooltip">(.*?)</span></span>', page)
    assert any("<b>id</b> id-0<" in tip and "<b>file</b> web.jsonl<" in tip and "<b>url</b> u0" in tip for tip in tips)
    assert any("begins in an earlier row" in tip and "goes on in a later row" in tip for tip in tips)
    assert not any("may begin" in tip for tip in tips)


def changed(dataset: Path, to: Path, **about: object) -> None:
    """Copy a dataset with another entry of convert in its index; None removes a value."""
    shutil.copytree(dataset, to)
    index = json.loads((dataset / "index.json").read_bytes())
    index.pop(INDEX_HASHES)
    index["mixstream"] = {k: v for k, v in {**index["mixstream"], **about}.items() if v is not None}
    (to / "index.json").write_text(json.dumps(index))


def test_without_a_sidecar_the_end_token_shows_borders(made, tmp_path, capsys):
    changed(made / "web/train", tmp_path / "train", documents_files=None)
    page, _ = page_of(tmp_path / "train", capsys=capsys)
    assert page.count('class="doc a"') > 1
    assert "may begin in an earlier row" in page


def test_a_card_of_another_state_is_not_shown(made, tmp_path, capsys):
    changed(made / "web/train", tmp_path / "web/train", documents=61)
    (tmp_path / "card.json").write_bytes((made / "card.json").read_bytes())
    page, noted = page_of(tmp_path, capsys=capsys)
    assert "another state" in noted
    assert 'class="histogram"' not in page


@pytest.mark.parametrize(
    ("card", "noted"),
    [
        (b"not json", "is no card of convert"),
        (b'{"version": 1, "datasets": [{}], "rejects": {}}', "is no card of convert"),
        (b'{"version": 99}', "is of a later version"),
        (b"[" * 100_000, "is no card of convert"),
    ],
)
def test_a_strange_card_is_noted_and_ignored(made, tmp_path, capsys, card, noted):
    changed(made / "web/train", tmp_path / "web/train")
    (tmp_path / "card.json").write_bytes(card)
    _, told = page_of(tmp_path, "--samples", 0, capsys=capsys)
    assert noted in told


def test_inspect_shows_the_main_facts_of_a_card(made, capsys):
    assert main(["inspect", str(made), "--samples", "0"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"web/train +60 +\d.* KiB", told)
    assert main(["inspect", str(made / "web/train"), "--samples", "0", "--json"]) == 0
    (dataset,) = json.loads(capsys.readouterr().out)["datasets"]
    assert dataset["card"]["documents"] == 60
    assert dataset["card"]["lengths"]["most"] == 82


def test_few_requests_are_made(made, monkeypatch, capsys):
    asked: list[tuple[str, bool]] = []
    local = type(ms.storage.open_store(str(made)))
    read = local.read

    def watched(self: Store, name: str, begin: int | None = None, end: int | None = None, **options: object):
        asked.append((name, begin is not None or end is not None))
        return read(self, name, begin, end, **options)

    monkeypatch.setattr(local, "read", watched)
    page_of(made / "web/train", "--samples", 1, capsys=capsys)
    whole = [name for name, is_range in asked if not is_range]
    assert all(name.endswith((".json", ".parquet")) for name in whole)
    assert len(asked) < 60


def test_other_datasets_have_a_page_too(tmp_path, capsys):
    with ms.MDSWriter(columns={"text": "str", "score": "float64"}, out=str(tmp_path / "plain")) as writer:
        writer.write({"text": "<b>\x00 hi", "score": 0.5})
    with ms.MDSWriter(columns={"tokens": "ndarray:uint16:4"}, out=str(tmp_path / "ids")) as writer:
        writer.write({"tokens": np.arange(4, dtype=np.uint16)})
    page, _ = page_of(tmp_path, capsys=capsys)
    assert "&lt;b&gt;\\x00 hi" in page
    assert "0 1 2 3" in page
    assert "borders are not shown" in page


def test_wrong_uses(made, tmp_path, capsys):
    assert main(["inspect", str(made), "--html", "-", "--json"]) == 2
    assert main(["inspect", str(made), "--html", str(tmp_path / "none/page.html")]) == 2
    assert "cannot be written: No such file" in capsys.readouterr().err


@given(st.text(st.characters(exclude_categories=())))
def test_text_stays_text(text):
    for shown in (line(text), prose(text), tag("p", text, title=text)):
        shown.encode()
        inside = re.sub(r'^<p title="[^"]*">|</p>$|<i class="esc">|</i>', "", shown)
        assert not re.search("[<>\"']", inside)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", inside)


@given(st.lists(st.integers(0, 3), min_size=1))
def test_borders_by_the_end_token_cover_the_row(ids):
    row = np.array(ids)
    segments = by_end_token(row, 0)
    assert covers(segments, len(row))
    assert [each.end for each in segments if each.ends] == (np.flatnonzero(row == 0) + 1).tolist()
    assert not covers(segments[1:], len(row))
