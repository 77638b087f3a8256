"""What the page shows, and how facts of a dataset are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...shared.cards import Card, DatasetCard
from .elements import Html, tag
from .numbers import percent
from .rows import Row, TokenReader

IN_TABLE, IN_PLOTS, IN_SAMPLES = 500, 40, 24
"""How many datasets, the largest, are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A dataset on the page.

    Attributes:
        name: as `mixstream inspect` prints it.
        described: what `mixstream inspect --json` says of it.
        card: its data card, if it has one that describes its state.
        rows: samples with tokens.
        reader: of their tokens.
        samples: other samples, title to described columns.
    """

    name: str
    described: Mapping[str, Any]
    card: DatasetCard | None
    rows: Sequence[Row]
    reader: TokenReader
    samples: Sequence[tuple[str, Mapping[str, str]]]

    @property
    def about(self) -> Mapping[str, Any]:
        """What convert says of it in its index."""
        return self.described["about"]

    @property
    def domain(self) -> str:
        """The domain, or the dataset's name."""
        return str(self.about.get("domain") or self.name)

    @property
    def split(self) -> str:
        """The split; empty if it is not known."""
        return str(self.about.get("split") or "")

    @property
    def size(self) -> int:
        """Its tokens, else its samples: what the largest datasets have most of."""
        return self.described["tokens"] or self.described["samples"]

    def count(self, name: str) -> int | None:
        """A count of its index."""
        found = self.about.get(name)
        return found if isinstance(found, int) and found >= 0 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What the page shows.

    Attributes:
        title: its heading.
        url: where the datasets lie.
        datasets: those that can be read.
        card: of all of them.
        troubles: name and message of what cannot be read.
        notes: of the search, for the reader of the page.
    """

    title: str
    url: str
    datasets: Sequence[Shown]
    card: Card | None
    troubles: Sequence[tuple[str, str]]
    notes: Sequence[str]


def by_size(datasets: Sequence[Shown]) -> list[Shown]:
    """The datasets, those of the largest domain first, and of a domain the largest split."""
    sizes: Counter[str] = Counter()
    for each in datasets:
        sizes[each.domain] += each.size
    return sorted(datasets, key=lambda each: (-sizes[each.domain], each.domain, -each.size))


def section(title: str, *content: str | Sequence[str], note: str = "") -> Html:
    """Return a section of the page."""
    return tag("section", tag("h2", title), [tag("p", note, class_="note")] if note else [], *content)


def more_than(shown: int, all_of_them: int) -> list[Html]:
    """Return the remark that only the largest are shown, if that is so."""
    if all_of_them <= shown:
        return []
    return [tag("p", f"The largest {shown:,} of {all_of_them:,} are shown.", class_="note")]


def label_of(each: Shown) -> str:
    """Domain and split."""
    return f"{each.domain} / {each.split}" if each.split else each.domain


def median_of(each: Shown) -> str:
    """The median of the lengths of documents, as far as the histogram knows it; empty if there is none."""
    if each.card is None or each.card.lengths is None or "0.5" not in each.card.lengths.quantiles_between:
        return ""
    low, high = each.card.lengths.quantiles_between["0.5"]
    return f"{low:,}" if high == low + 1 else f"{low:,}–{high - 1:,}"  # noqa: RUF001  # a range


def copies_of(each: Shown) -> str:
    """The number and share of documents that are copies; empty if it is not known."""
    found = None if each.card is None else each.card.duplicates
    if found is None or each.card is None:
        return ""
    share = percent(found.copies / max(each.card.documents, 1))
    return f"{'' if found.exact else '≈ '}{found.copies:,} ({share})"


def per_token(each: Shown) -> str:
    """Bytes of text for each token; empty if that is not known."""
    tokens = 0 if each.card is None else each.card.tokens + each.card.dropped_tokens
    return f"{each.card.text_bytes / tokens:.2f}" if each.card is not None and tokens else ""


def whole(count: int | None) -> str:
    """A count; empty if it is not known."""
    return "" if count is None else f"{count:,}"
