"""The page: what is known of some datasets as one file of HTML, which needs no network, script or other file.

Rule: the page is a function of what it is given; it names no time and no machine. Very many datasets are summed up:
tables, plots and samples show the largest, and the page says how many more there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mixstream
from mixstream.units import show_bytes

from .details import detail_sections
from .documents import length_section, loss_section
from .domains import domain_section
from .elements import Html, join, tag
from .numbers import compact
from .rows import show_row
from .shown import IN_SAMPLES, Page, Shown, by_size, label_of, more_than, section
from .style import POLICY, style


def render(page: Page) -> str:
    """Return the page."""
    largest = by_size(page.datasets)
    colors = {name: at for at, name in enumerate(dict.fromkeys(each.domain for each in largest))}
    sections = [
        _troubles(page),
        domain_section(largest, colors),
        length_section(largest, colors),
        loss_section(page, largest, colors),
        _rows(largest),
        *detail_sections([each.card for each in page.datasets if each.card is not None], page.card, largest),
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=f"mixstream {mixstream.__version__}"),
        tag("link", rel="icon", href="data:,"),
        tag("title", page.title),
        style(),
    )
    footer = tag("footer", f"Made by mixstream {mixstream.__version__}: ", tag("code", "mixstream inspect --html"))
    body = tag("body", tag("main", _header(page), [each for each in sections if each], footer))
    whole = join(Html("<!doctype html>\n"), tag("html", head, body, lang="en"), Html("\n"))
    return whole.encode(errors="backslashreplace").decode()


def _header(page: Page) -> Html:
    totals = [tag("div", tag("b", value), tag("span", label), class_="tile") for value, label in _totals(page)]
    sub = tag("p", page.url, class_="sub")
    return tag("header", tag("h1", page.title), sub, tag("div", totals, class_="tiles"))


def _totals(page: Page) -> Iterator[tuple[str, str]]:
    datasets = page.datasets
    named = len({each.domain for each in datasets})
    is_converted = all(each.about.get("domain") for each in datasets)
    yield compact(named), ("domain" if is_converted else "dataset") + ("s" if named != 1 else "")
    tokens = [each.described["tokens"] for each in datasets]
    if None not in tokens:
        yield compact(sum(tokens)), "tokens"
    documents = [each.count("documents") for each in datasets]
    if documents and None not in documents:
        yield compact(sum(filter(None, documents))), "documents"
    yield compact(sum(each.described["samples"] for each in datasets)), "rows" if is_converted else "samples"
    cards = [each.card for each in datasets]
    if cards and None not in cards:
        yield show_bytes(sum(card.text_bytes for card in cards if card is not None)), "of text"
    stored = sum(each.described["packed_bytes"] or each.described["raw_bytes"] for each in datasets)
    yield show_bytes(stored), "in shards"


def _troubles(page: Page) -> Html | None:
    lines = [tag("p", tag("b", f"{name}: "), message, class_="bad") for name, message in page.troubles]
    lines += [tag("p", note, class_="note") for note in page.notes]
    if page.troubles:
        return section("Not readable", lines)
    return tag("section", lines) if lines else None


def _rows(largest: Sequence[Shown]) -> Html | None:
    boxes: list[Html] = []
    for each in largest[:IN_SAMPLES]:
        shown = [show_row(row, each.reader) for row in each.rows]
        shown += [
            tag(
                "div",
                tag("div", tag("b", title), class_="rowhead"),
                [tag("p", tag("b", k), f" {v}", class_="column") for k, v in columns.items()],
                class_="row",
            )
            for title, columns in each.samples
        ]
        if shown:
            boxes.append(tag("div", tag("h3", label_of(each)), shown))
    if not boxes:
        return None
    rows = [row for each in largest[:IN_SAMPLES] for row in each.rows]
    if any(row.segments for row in rows):
        note = (
            "Rows as a model reads them. Where the colour changes, another document begins; its label says which. "
            "Point at it or touch it for what is known of it. Long documents are shortened in the middle."
        )
    elif rows:
        note = (
            "Rows as a model reads them. The index does not say which token ends a document, so borders are not shown."
        )
    else:
        note = "A few samples, decoded."
    return section("Samples", boxes, more_than(IN_SAMPLES, len(largest)), note=note)
