"""Samples of rows: the text of each document in them, in two colours by turns, with what is known of it.

A long document shows its beginning and its end, so that borders stay in sight. Special tokens are marked; so are the
places where a document goes on beyond the row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...shared.safe_text import shortened
from ..borders import Segment
from .elements import Html, join, prose, tag

_HEAD, _TAIL = 420, 160  # characters of a document that are shown if it has more
_NUMBERS = 24
_MOST_TOKENS = 1 << 14
_MOST_SEGMENTS = 200
_BADGE = 28  # characters
_HASH = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A sample with tokens.

    Attributes:
        title: where it lies.
        ids: its tokens, int [tokens].
        segments: of the documents in it; None if the borders are not known.
        columns: the other columns, name to value as people read it.
    """

    title: str
    ids: NDArray[np.integer]
    segments: tuple[Segment, ...] | None
    columns: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenReader:
    """Reads tokens for people.

    Attributes:
        to_text: ids → text; None if the tokenizer is not known.
        special: id → name of the tokens that are marked.
    """

    to_text: Callable[[Sequence[int]], str] | None
    special: Mapping[int, str]


def show_row(row: Row, reader: TokenReader) -> Html:
    """Return a row as a box of text."""
    ids = row.ids[:_MOST_TOKENS]
    segments = row.segments or (Segment(begin=0, end=len(row.ids), begins=None, ends=False),)
    shown = [each for each in segments if each.begin < len(ids)][:_MOST_SEGMENTS]
    texts = [
        _segment(ids[each.begin : each.end], each, number, reader, whole=row.segments is not None)
        for number, each in enumerate(shown)
    ]
    left = len(row.ids) - min(shown[-1].end, len(ids)) if shown else 0
    more = [tag("p", f"… and {left:,} tokens more", class_="note")] if left else []
    columns = [tag("p", tag("b", name), f" {value}", class_="column") for name, value in row.columns.items()]
    count = f"{len(row.ids):,} tokens"
    if row.segments is not None:
        count += f", {len(row.segments):,} documents" if len(row.segments) > 1 else ", 1 document"
    head = tag("div", tag("b", row.title), tag("span", count), class_="rowhead")
    return tag("div", head, tag("div", texts, class_="text", tabindex=0), more, columns, class_="row")


def _segment(ids: NDArray[np.integer], segment: Segment, number: int, reader: TokenReader, *, whole: bool) -> Html:
    if not whole:
        return tag("span", _text(ids, reader), class_="tokens")
    before = [tag("i", "… ", class_="more", title="it begins in an earlier row")] if segment.begins is False else []
    after = [tag("i", " …", class_="more", title="it goes on in a later row")] if not segment.ends else []
    return tag(
        "span",
        _badge(segment, number),
        before,
        _text(ids, reader),
        after,
        _tip(segment, number),
        class_=f"doc {'ab'[number % 2]}",
        tabindex=0,
    )


def _badge(segment: Segment, number: int) -> Html:
    """A short name: the id, or the file and record where the id is only a hash, or the number in the row."""
    names = dict(segment.names)
    label = names.get("id", str(number + 1))
    if _HASH.fullmatch(label) and "file" in names:
        record = "" if names.get("record", "0") == "0" else f" #{names['record']}"  # the last that may be cut off
        label = shortened(names["file"].rpartition("/")[2], _BADGE - len(record)) + record
    return tag("span", shortened(label, _BADGE), class_="badge", aria_hidden="true")


def _tip(segment: Segment, number: int) -> Html:
    tokens = segment.end - segment.begin
    facts = [f"document {number + 1} of this row", f"{tokens:,} tokens here"]
    facts += ["begins in an earlier row"] if segment.begins is False else []
    facts += ["may begin in an earlier row"] if segment.begins is None else []
    facts += [] if segment.ends else ["goes on in a later row"]
    names = [tag("span", tag("b", name), f" {value}") for name, value in segment.names]
    return tag("span", [tag("span", fact) for fact in facts], names, class_="tip", role="tooltip")


def _text(ids: NDArray[np.integer], reader: TokenReader) -> Html:
    """The text of tokens, special ones marked, shortened in the middle."""
    if reader.to_text is None:
        return _numbers(ids, reader.special)
    runs: list[Html | str] = []
    for kind, run in _runs(ids, reader.special):
        runs.append(_mark(reader.special[kind]) if kind is not None else reader.to_text(run))
    total = sum(len(run) for run in runs if not isinstance(run, Html))
    if total <= _HEAD + _TAIL:
        return join(*(run if isinstance(run, Html) else prose(run) for run in runs))
    return _shortened(runs, total)


def _shortened(runs: Sequence[Html | str], total: int) -> Html:
    """Runs of text without the characters between the first `_HEAD` and the last `_TAIL`."""
    gap, end = _HEAD, total - _TAIL
    at, parts, is_cut = 0, [], False
    for run in runs:
        if isinstance(run, Html):
            parts += [run] if at <= gap or at >= end else []
            continue
        head, tail = run[: max(gap - at, 0)], run[max(end - at, 0) :] if at + len(run) > end else ""
        parts.append(prose(head))
        if at + len(run) > gap and not is_cut:
            parts.append(tag("span", f"{end - gap:,} characters", class_="cut"))
            is_cut = True
        parts.append(prose(tail))
        at += len(run)
    return join(*parts)


def _numbers(ids: NDArray[np.integer], special: Mapping[int, str]) -> Html:
    values = ids.tolist()
    head = values if len(values) <= _NUMBERS else values[: _NUMBERS * 2 // 3]
    tail = [] if len(values) <= _NUMBERS else values[-(_NUMBERS // 3) :]

    def show(part: Sequence[int]) -> list[Html]:
        return [_mark(special[each]) if each in special else Html(f"{each} ") for each in part]

    cut = [tag("span", f"{len(values) - len(head) - len(tail):,} tokens", class_="cut"), Html(" ")] if tail else []
    return tag("span", show(head), cut, show(tail), class_="ids")


def _mark(name: str) -> Html:
    return tag("span", name, class_="special")


def _runs(ids: NDArray[np.integer], special: Mapping[int, str]) -> list[tuple[int | None, list[int]]]:
    """Ids between special tokens, and these one by one."""
    at_N = np.flatnonzero(np.isin(ids, np.fromiter(special, np.int64, len(special)))).tolist()
    runs: list[tuple[int | None, list[int]]] = []
    begin = 0
    for at in at_N:
        runs += [(None, ids[begin:at].tolist())] if at > begin else []
        runs.append((int(ids[at]), []))
        begin = at + 1
    return [*runs, (None, ids[begin:].tolist())] if begin < len(ids) else runs


def describe_columns(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the described columns of a sample (`Sample.describe`) as text, without its tokens."""
    found = {}
    for name, value in values.items():
        if "dtype" in value:
            shape = " x ".join(map(str, value["shape"]))
            found[name] = f"{value['dtype']} [{shape}] {' '.join(map(str, value['first']))}"
        else:
            found[name] = str(value["value"])
    return found
