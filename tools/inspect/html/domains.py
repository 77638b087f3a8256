"""The section of domains: bars of their tokens, and a table of all counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mixstream.units import show_bytes

from .charts import COLORS, Bar, bars
from .elements import Html, tag
from .numbers import compact, percent
from .shown import IN_PLOTS, IN_TABLE, Shown, copies_of, label_of, median_of, more_than, per_token, section, whole


def domain_section(largest: Sequence[Shown], colors: Mapping[str, int]) -> Html | None:
    """Return the section; None without datasets."""
    if not largest:
        return None
    by_tokens = all(each.described["tokens"] is not None for each in largest)
    parts: dict[str, list[int]] = {}
    for each in largest:
        parts.setdefault(each.domain, []).append(
            (each.described["tokens"] or 0) if by_tokens else each.described["samples"]
        )
    total = sum(map(sum, parts.values())) or 1
    unit = "tokens" if by_tokens else "samples"
    lines = [
        Bar(
            label=name,
            parts=tuple(counts),
            value=f"{compact(sum(counts))} · {percent(sum(counts) / total)}",
            color=colors[name],
        )
        for name, counts in sorted(parts.items(), key=lambda pair: -sum(pair[1]))[:IN_PLOTS]
    ]
    note = f"{unit.capitalize()} of each domain" if largest[0].about else f"{unit.capitalize()} of each dataset"
    note += "; paler: the smaller split." if any(len(counts) > 1 for counts in parts.values()) else "."
    table = _table(largest[:IN_TABLE], colors, total=total)
    title = "Domains" if largest[0].about else "Datasets"
    return section(title, bars(lines, title=note), table, more_than(min(IN_PLOTS, IN_TABLE), len(parts)), note=note)


def _table(datasets: Sequence[Shown], colors: Mapping[str, int], *, total: int) -> Html:
    columns = [column for column in _COLUMNS if any(column[1](each, total) != "" for each in datasets)]
    head = [
        tag("th", "domain" if datasets and datasets[0].about else "dataset"),
        *(tag("th", name, class_="n") for name, _ in columns),
    ]
    rows = [
        tag(
            "tr",
            tag("td", tag("span", class_=f"dot c{colors[each.domain] % COLORS}"), label_of(each), class_="name"),
            [tag("td", value(each, total), class_="n") for _, value in columns],
        )
        for each in datasets
    ]
    return tag("div", tag("table", tag("thead", tag("tr", head)), tag("tbody", rows)), class_="scroll")


_COLUMNS: tuple[tuple[str, Callable[[Shown, int], str]], ...] = (
    ("documents", lambda each, _: whole(each.count("documents"))),
    ("rows", lambda each, _: whole(each.described["samples"])),
    ("tokens", lambda each, _: whole(each.described["tokens"])),
    (
        "share",
        lambda each, total: "" if each.described["tokens"] is None else percent(each.described["tokens"] / total),
    ),
    ("text", lambda each, _: "" if each.card is None else show_bytes(each.card.text_bytes)),
    ("bytes a token", lambda each, _: per_token(each)),
    ("tokens a document, median", lambda each, _: median_of(each)),
    ("copies", lambda each, _: copies_of(each)),
    ("shards", lambda each, _: whole(each.described["shards"])),
    ("stored", lambda each, _: show_bytes(each.described["packed_bytes"] or each.described["raw_bytes"])),
)
