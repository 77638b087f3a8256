"""Statistics, counts and a recipe → the card of a dataset; the cards of datasets → the card of an output. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import mixstream

from ...shared.cards import VERSION, Card, DatasetCard, SourceNamed, SourcesOf
from ..files.source_files import SourceFile
from .statistics import Statistics

_FILES_NAMED = 10
_SAMPLES_OF = 100
"""The card of an output of more datasets shows sample texts of so many, the largest; all others are in their own."""

MADE_BY = f"mixstream {mixstream.__version__}"


def sources_of(files: Iterable[SourceFile]) -> SourcesOf:
    """Return what a card says of source files; one that comes twice, in several slices, counts once."""
    each = {file.path: file for file in files}
    first = list(each.values())[:_FILES_NAMED]
    return SourcesOf(
        files=len(each),
        bytes=sum(file.size for file in each.values()),
        formats=dict(sorted(Counter(file.format for file in each.values()).items())),
        first=tuple(SourceNamed(name=_utf8(file.name), bytes=file.size) for file in first),
    )


def describe_dataset(
    about: Mapping[str, Any], statistics: Statistics, *, options: Mapping[str, Any], sources: SourcesOf
) -> DatasetCard:
    """Return the card of a dataset.

    Args:
        about: its entry in its index.
        statistics: of its documents.
        options: all options that decide bytes, as run.json has them.
        sources: the files that it was made of.
    """
    return DatasetCard(
        version=VERSION,
        made_by=MADE_BY,
        domain=about["domain"],
        split=about["split"],
        documents=about["documents"],
        rows=about["rows"],
        tokens=about["tokens"],
        dropped_tokens=about["dropped_tokens"],
        shards=about["shards"],
        text_bytes=statistics.text_bytes,
        lengths=statistics.lengths.describe(),
        duplicates=None if statistics.hashes is None else statistics.hashes.describe(),
        samples=tuple(statistics.samples),
        tokenizer=about["tokenizer"],
        options=dict(options),
        sources=sources,
    )


def compose_card(
    summary: Mapping[str, Any],
    find: Callable[[str, str], DatasetCard | None],
    *,
    tokenizer_files: Mapping[str, str],
) -> Card | None:
    """Return the card of an output; None if no dataset has one, because an earlier version made them all.

    Args:
        summary: what domains.json says.
        find: domain and split → the card of that dataset, if it has one that describes its state.
        tokenizer_files: the copy of the tokenizer, file to sha256.
    """
    datasets: list[DatasetCard] = []
    without: list[tuple[str, str]] = []
    for domain, splits in summary["domains"].items():
        for split, counts in splits.items():
            if not counts["rows"]:
                continue
            card = find(domain, split)
            about = {**counts, "domain": domain, "split": split}
            if card is not None and card.matches(about):
                datasets.append(card)
            else:
                without.append((domain, split))
    if not datasets:
        return None
    large = sorted(datasets, key=lambda each: -each.tokens)[:_SAMPLES_OF]
    shown = {(each.domain, each.split) for each in large}
    return Card(
        version=VERSION,
        datasets=tuple(each if (each.domain, each.split) in shown else each.without_samples() for each in datasets),
        without=tuple(without),
        rejects={**summary["skipped"], **({"left_out": left_out} if (left_out := summary.get("left_out")) else {})},
        tokenizer_files=dict(tokenizer_files),
    )


def _utf8(name: str) -> str:
    """A file's name as text: names of files may be no UTF-8."""
    return name.encode(errors="backslashreplace").decode()
