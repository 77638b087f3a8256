"""Plots as inline SVG, without scripts: bars beside labels, and histograms.

Bars stretch with the page and their labels are text of the page, so that they stay readable on a phone. All colours are
classes, which the page's style gives for light and dark screens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...shared.cards import Lengths
from .elements import Html, join, tag
from .numbers import compact, percent

COLORS = 8
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 340, 150, 8, 22, 10
_TICKS = 5
_MOST_BARS = 60
_WIDEST = 40.0
_APART = 42.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A line of a bar chart.

    Attributes:
        label: on its left.
        parts: lengths, one after the other; the second is drawn lighter.
        value: on its right.
        color: number of its colour.
    """

    label: str
    parts: tuple[float, ...]
    value: str
    color: int


def bars(lines: Sequence[Bar], *, title: str, most: float | None = None) -> Html:
    """Return a bar chart; all bars are drawn on one scale, from 0 to `most`, by default that of the longest."""
    most = most or max((sum(bar.parts) for bar in lines), default=0) or 1
    return tag("div", [_bar(bar, most) for bar in lines], class_="bars", role="group", aria_label=title)


def _bar(bar: Bar, most: float) -> Html:
    rects: list[Html] = []
    at = 0.0
    for number, part in enumerate(bar.parts):
        width = 1000 * part / most
        if width > 0:
            rects.append(
                tag(
                    "rect",
                    x=_number(at),
                    y=0,
                    width=_number(max(width, 2)),
                    height=10,
                    class_=f"c{bar.color % COLORS}" + (" light" if number else ""),
                )
            )
        at += width
    plot = tag(
        "svg",
        rects,
        viewBox="0 0 1000 10",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{bar.label}: {bar.value}",
    )
    return join(tag("span", bar.label, class_="label"), plot, tag("span", bar.value, class_="value"))


def histogram(lengths: Lengths, *, row: int | None, color: int, label: str) -> Html:
    """Return the histogram of documents' lengths; a line shows where their tokens are, another the length of a row.

    Args:
        lengths: of documents.
        row: tokens of a row; None if rows have no fixed length.
        color: number of the colour.
        label: what it is of, for those who cannot see it.
    """
    lengths = _merged(lengths)
    count = len(lengths.documents)
    step = min((_WIDTH - 2 * _LEFT) / count, _WIDEST)
    floor = _HEIGHT - _BOTTOM
    documents, tokens = _shares(lengths.documents), _shares(lengths.tokens)
    most = max(*documents, *tokens, 1e-9)

    def y(share: float) -> float:
        return floor - (floor - _TOP) * share / most

    shapes: list[Html] = []
    for at, share in enumerate(documents):
        if share:
            top = min(y(share), floor - 0.7)
            text = (
                f"{lengths.edges[at]:,} to {lengths.edges[at + 1] - 1:,} tokens: {lengths.documents[at]:,} documents "
                f"({percent(share)}), {percent(tokens[at])} of the tokens"
            )
            shapes.append(
                tag(
                    "rect",
                    tag("title", text),
                    x=_number(_LEFT + at * step + step * 0.06),
                    y=_number(top),
                    width=_number(step * 0.88),
                    height=_number(floor - top),
                    class_=f"c{color % COLORS}",
                )
            )
    outline = " ".join(
        f"{_number(_LEFT + (at + side) * step)},{_number(y(share))}"
        for at, share in enumerate(tokens)
        for side in (0, 1)
    )
    shapes.append(tag("polyline", points=outline, class_="outline"))
    shapes.append(tag("line", x1=_LEFT, x2=_WIDTH - _LEFT, y1=floor, y2=floor, class_="axis"))
    shapes += _ticks(lengths.edges, step)
    if row is not None and (place := _place(lengths.edges, row)) is not None:
        x = _number(_LEFT + place * step)
        anchor = "end" if place > count / 2 else "start"
        shapes.append(tag("line", x1=x, x2=x, y1=_TOP - 4, y2=floor, class_="mark"))
        shift = -4 if anchor == "end" else 4
        shapes.append(tag("text", "one row", x=_number(float(x) + shift), y=_TOP + 4, text_anchor=anchor))
    return tag("svg", shapes, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=label, class_="histogram")


def _merged(lengths: Lengths) -> Lengths:
    """A histogram of at most `_MOST_BARS` bins: neighbours are joined."""
    group = -(-len(lengths.documents) // _MOST_BARS)
    if group == 1:
        return lengths
    starts = range(0, len(lengths.documents), group)
    return Lengths(
        edges=(*(lengths.edges[at] for at in starts), lengths.edges[-1]),
        documents=tuple(sum(lengths.documents[at : at + group]) for at in starts),
        tokens=tuple(sum(lengths.tokens[at : at + group]) for at in starts),
        least=lengths.least,
        most=lengths.most,
        quantiles_between=lengths.quantiles_between,
    )


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def _ticks(edges: Sequence[int], step: float) -> list[Html]:
    """Labels below the axis: powers of two, as many as have room; without any, the first and the last edge."""
    powers = [at for at, edge in enumerate(edges) if edge and not edge & (edge - 1)]
    places = powers[:: -(-len(powers) // _TICKS)] if len(powers) > 1 else [0, len(edges) - 1]
    ticks: list[Html] = []
    last = -_APART
    for at in places:
        x = _LEFT + at * step
        if x < last + _APART:
            continue
        last = x
        anchor = "start" if x < 20 else "end" if x > _WIDTH - 24 else "middle"
        ticks.append(
            tag("line", x1=_number(x), x2=_number(x), y1=_HEIGHT - _BOTTOM, y2=_HEIGHT - _BOTTOM + 4, class_="axis")
        )
        ticks.append(tag("text", compact(edges[at]), x=_number(x), y=_HEIGHT - 6, text_anchor=anchor))
    return ticks


def _place(edges: Sequence[int], length: int) -> float | None:
    """Where a length lies on the axis, in bins; None if it is beyond."""
    for at, (low, high) in enumerate(pairwise(edges)):
        if low <= length < high:
            return at + (length - low) / (high - low)
    return None


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
