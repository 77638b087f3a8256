"""The sections at the end of the page: sample texts, the tokenizer, options and sources."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from mixstream.units import show_bytes

from ...shared.cards import Card, DatasetCard, SampleText
from .elements import Html, prose, tag
from .numbers import compact

_MOST = 24  # datasets with sample texts


class Described(Protocol):
    """A dataset, as far as it is needed here."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What convert says of it in its index."""
        ...

    @property
    def described(self) -> Mapping[str, Any]:
        """What `mixstream inspect --json` says of it."""
        ...


def detail_sections(
    cards: Sequence[DatasetCard], card: Card | None, datasets: Sequence[Described]
) -> Iterator[Html | None]:
    """Yield the sections, None for one of which nothing is known."""
    yield _texts(cards)
    yield _made(cards, card, datasets)


def _texts(cards: Sequence[DatasetCard]) -> Html | None:
    largest = sorted((each for each in cards if each.samples), key=lambda each: -each.tokens)[:_MOST]
    if not largest:
        return None
    boxes = [
        tag(
            "details",
            tag("summary", tag("b", f"{each.domain} / {each.split}"), f", {len(each.samples)} documents"),
            [_text(sample) for sample in each.samples],
            open="" if at == 0 else None,
        )
        for at, each in enumerate(largest)
    ]
    note = "The beginnings of documents as they were read, before the tokenizer, chosen by the hash of their text."
    return tag("section", tag("h2", "Documents"), tag("p", note, class_="note"), boxes)


def _text(sample: SampleText) -> Html:
    facts = [f"{sample.characters:,} characters", f"{sample.tokens:,} tokens"]
    facts += [f"id {sample.id}"] if sample.id is not None else []
    place = "" if sample.file is None else sample.file
    place += "" if sample.record is None else f", record {sample.record:,}"
    more = tag("span", "…", class_="more") if sample.characters > len(sample.text) else Html("")
    head = tag("div", [tag("span", fact) for fact in [place, *facts] if fact], class_="rowhead")
    return tag("div", head, tag("blockquote", prose(sample.text), more, dir="auto"))


def _made(cards: Sequence[DatasetCard], card: Card | None, datasets: Sequence[Described]) -> Html | None:
    boxes = [*_tokenizers(datasets, card), *_options(cards), *_sources(cards), _layout(datasets)]
    return tag("section", tag("h2", "How it was made"), tag("div", boxes, class_="two")) if any(boxes) else None


def _list(title: str, facts: Mapping[str, str]) -> Html:
    pairs = [part for name, value in facts.items() for part in (tag("dt", name), tag("dd", value))]
    return tag("div", tag("h3", title), tag("dl", pairs))


def _tokenizers(datasets: Sequence[Described], card: Card | None) -> Iterator[Html]:
    found = {
        json.dumps(made, sort_keys=True): made
        for each in datasets
        if isinstance(made := each.about.get("tokenizer"), dict)
    }
    for made in found.values():
        facts = {name.replace("_", " "): str(value) for name, value in made.items()}
        if card is not None and card.tokenizer_files and card.tokenizer_files.get("tokenizer.json") == made.get("hash"):
            facts["copy"] = ", ".join(f"tokenizer/{name}" for name in card.tokenizer_files)
        yield _list("Tokenizer", facts)


def _options(cards: Sequence[DatasetCard]) -> Iterator[Html]:
    """The options of the datasets; those that differ between them are listed apart."""
    each = {json.dumps(card.options, sort_keys=True): card for card in cards}
    for card in each.values():
        names = "" if len(each) == 1 else f" of {card.domain}" + (" and others" if len(cards) > len(each) else "")
        facts = {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in card.options.items()
            if name != "tokenizer"
        }
        yield _list(f"Options{names}", {**facts, "made by": card.made_by})


def _sources(cards: Sequence[DatasetCard]) -> Iterator[Html]:
    each = {(card.domain, json.dumps([one.name for one in card.sources.first])): card for card in cards}
    facts: dict[str, str] = {}
    for card in list(each.values())[:_MOST]:
        made_of = card.sources
        formats = ", ".join(f"{count:,} {name}" for name, count in made_of.formats.items())
        first = ", ".join(one.name for one in made_of.first[:3])
        more = f" and {made_of.files - 3:,} more" if made_of.files > 3 else ""
        facts[card.domain] = f"{compact(made_of.files)} files ({formats}), {show_bytes(made_of.bytes)}: {first}{more}"
    if facts:
        yield _list("Sources", facts)


def _layout(datasets: Sequence[Described]) -> Html:
    columns = dict.fromkeys(
        ", ".join(f"{name} ({encoding})" for name, encoding in layout.items())
        for each in datasets
        for layout in each.described["columns"]
    )
    shown = [each.described for each in datasets]
    compression = sorted({name for each in shown for name in each["compression"]})
    hashes = sorted({name for each in shown for name in each["hashes"]})
    facts = {
        "columns": "; ".join(list(columns)[:6]) or "none",
        "shards": f"{sum(each['shards'] for each in shown):,}, MDS",
        "compression": ", ".join(compression) or "none",
        "hashes": ", ".join(hashes) or "none",
    }
    return _list("Shards", facts)
