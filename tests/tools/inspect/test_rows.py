"""How a row is shown: shortened in the middle, as numbers where no tokenizer is known, with badges and tips."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest

from mixstream_tools.inspect.borders import Segment, by_end_token
from mixstream_tools.inspect.html.rows import Row, TokenReader, show_row

EOS = 9


def spell(ids: Sequence[int]) -> str:
    return "".join(chr(each) for each in ids)


def shown(ids: Sequence[int], *, text: bool = True, segments: tuple[Segment, ...] | None = None) -> str:
    row = Row(title="row 0", ids=np.array(ids, np.int64), segments=segments, columns={})
    return show_row(row, TokenReader(to_text=spell if text else None, special={EOS: "<eos>"}))


def plain(page: str) -> str:
    return re.sub(r"<[^>]*>", "", page).replace("&lt;", "<").replace("&gt;", ">")


def letters(count: int) -> list[int]:
    return [ord("a") + at % 26 for at in range(count)]


@pytest.mark.parametrize(
    ("runs", "head", "tail", "cut"),
    [
        ([580], 580, 0, None),
        ([581], 420, 160, 1),
        ([2000], 420, 160, 1420),
        ([420, 300], 420, 160, 140),
        ([100, 2000], 420, 160, 1520),
        ([419, 3, 700], 420, 160, 542),
        ([900, 100], 420, 160, 420),
        ([900, 160], 420, 160, 480),
        ([2, 1000, 1000, 1000, 2], 420, 160, 2424),
    ],
)
def test_a_long_text_shows_its_first_and_last_characters(
    runs: list[int], head: int, tail: int, cut: int | None
) -> None:
    text, ids, at = letters(sum(runs)), [], 0
    for size in runs:
        ids += [*text[at : at + size], EOS]
        at += size
    page = shown(ids[:-1])
    found = plain(page.partition('class="text"')[2].partition(">")[2]).replace("<eos>", "")
    middle = "" if cut is None else f"{cut:,} characters"
    assert found == f"{spell(text[:head])}{middle}{spell(text[len(text) - tail :])}"


def test_special_tokens_are_marked_but_for_those_in_the_cut() -> None:
    page = shown([*letters(10), EOS, *letters(1000), EOS, *letters(1000), EOS, *letters(10), EOS])
    assert page.count('class="special"') == 3  # in the head, in the tail, and at the end


def test_without_a_tokenizer_rows_are_numbers() -> None:
    assert "100 101 <eos>102 " in plain(shown([100, 101, EOS, 102], text=False))
    exact = plain(shown(range(100, 124), text=False))
    assert " ".join(map(str, range(100, 124))) in exact
    long = plain(shown(range(100, 140), text=False))
    assert f"{' '.join(map(str, range(100, 116)))} 16 tokens {' '.join(map(str, range(132, 140)))} " in long


@pytest.mark.parametrize(
    ("names", "badge"),
    [
        ((("id", "doc-7"),), "doc-7"),
        ((), "1"),
        ((("id", "0123456789abcdef" * 2), ("file", "a/b/web.jsonl"), ("record", "12")), "web.jsonl #12"),
        ((("id", "0123456789abcdef" * 2), ("file", "web.jsonl"), ("record", "0")), "web.jsonl"),
    ],
)
def test_a_document_has_a_badge_and_a_tip(names: tuple[tuple[str, str], ...], badge: str) -> None:
    page = shown(letters(4), segments=(Segment(begin=0, end=4, begins=None, ends=False, names=names),))
    assert re.findall(r'class="badge"[^>]*>(.*?)</span>', page) == [badge]
    assert "may begin in an earlier row" in page
    assert "goes on in a later row" in page
    assert all(f"<b>{name}</b> {value}" in page for name, value in names)


def test_what_is_not_shown_is_counted() -> None:
    assert "… and 16 tokens more" in shown(letters((1 << 14) + 16))
    many = tuple(Segment(begin=at, end=at + 1, begins=True, ends=True) for at in range(203))
    page = shown(letters(203), segments=many)
    assert "… and 3 tokens more" in page
    assert "203 tokens, 203 documents" in plain(page)


@pytest.mark.parametrize(
    ("ids", "bos", "expected"),
    [
        ([], None, []),
        ([EOS], None, [(0, 1, None, True)]),
        ([5, EOS, EOS, 6], None, [(0, 2, None, True), (2, 3, True, True), (3, 4, True, False)]),
        ([1, 5, EOS, 1, 6], 1, [(0, 3, True, True), (3, 5, True, False)]),
        ([5, EOS], 1, [(0, 2, False, True)]),
    ],
)
def test_documents_of_a_row_by_their_end_tokens(ids: list[int], bos: int | None, expected: list[object]) -> None:
    found = by_end_token(np.array(ids, np.int64), EOS, bos)
    assert [(each.begin, each.end, each.begins, each.ends) for each in found] == expected
