"""What is known of the documents of a dataset: gathered while a part is converted, kept with its record, then merged.

    work.py     PartStatistics.add   each document → the statistics of its domain and split in this part
    ledger.py   dump                 → `.convert/parts/<group>/00000.stats`
    publish.py  merge                of all parts, in order → Statistics of each dataset → its card

Rule: what comes out is a function of the documents and the parts. Memory is bounded for each part and each group:
histograms have fixed bins, hashes are thinned out (duplicates.py), and samples are few.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from ...shared.cards import SampleText
from .duplicates import HashCounter, Hashes, HashMerger
from .lengths import LengthCounts

SAMPLES = 4
"""Sample texts of a dataset."""
_HASHES_OF_PART = 1 << 17
_HASHES_OF_GROUP = 1 << 21
_LEAST_HASHES = 1 << 12  # of a dataset of a group of very many

Dataset = tuple[str, str]
"""Domain and split."""


class TextFacts(NamedTuple):
    """What is known of a document's text."""

    hash: int
    """Its xxh3_64."""
    bytes: int
    characters: int
    head: str
    """The first of them."""
    file: str
    record: int | None
    id: str | None


@dataclass(kw_only=True, slots=True)
class Statistics:
    """The documents of one dataset, or of a part of it.

    Attributes:
        documents: their number.
        text_bytes: of them in UTF-8.
        lengths: tokens of each.
        samples: those with the least hashes, by these.
        hashes: of their texts; None while a part is converted, which counts those of all its datasets together.
    """

    documents: int = 0
    text_bytes: int = 0
    lengths: LengthCounts = field(default_factory=LengthCounts)
    samples: list[SampleText] = field(default_factory=list)
    hashes: Hashes | None = None

    def add(self, facts: TextFacts, tokens: int) -> None:
        """Add a document."""
        self.documents += 1
        self.text_bytes += facts.bytes
        self.lengths.add(tokens)
        digits = f"{facts.hash:016x}"
        if len(self.samples) < SAMPLES or digits < self.samples[-1].hash:
            sample = SampleText(
                text=facts.head,
                characters=facts.characters,
                tokens=tokens,
                hash=digits,
                file=facts.file,
                record=facts.record,
                id=facts.id,
            )
            self._keep(sample)

    def merge(self, other: Statistics) -> None:
        """Add the documents of the next part; the hashes are merged apart (`HashMerger`)."""
        self.documents += other.documents
        self.text_bytes += other.text_bytes
        self.lengths.merge(other.lengths)
        for sample in other.samples:
            self._keep(sample)

    def _keep(self, sample: SampleText) -> None:
        if all(sample.hash != each.hash for each in self.samples):  # of several copies, the first is shown
            insort(self.samples, sample, key=lambda each: each.hash)
            del self.samples[SAMPLES:]


class PartStatistics:
    """Gathers the statistics of a part.

    >>> statistics = PartStatistics()
    >>> for at, text in enumerate(("one", "two", "one")):
    ...     facts = TextFacts(hash(text) % 2**64, 3, 3, text, file="a.txt", record=at, id=None)
    ...     statistics.add(("web", "train"), facts, 4)
    >>> made = merge([statistics.dump()])["web", "train"]
    >>> made.documents, made.hashes.describe().copies, {sample.text for sample in made.samples} == {"one", "two"}
    (3, 1, True)
    """

    def __init__(self) -> None:
        self._of: dict[Dataset, Statistics] = {}
        self._hashes = HashCounter(_HASHES_OF_PART)

    def add(self, dataset: Dataset, facts: TextFacts, tokens: int) -> None:
        """Add a document of `tokens` tokens, with those that begin and end it."""
        found = self._of.get(dataset)
        if found is None:
            found = self._of[dataset] = Statistics()
        found.add(facts, tokens)
        self._hashes.add(dataset, facts.hash)

    def dump(self) -> bytes:
        """Return the bytes of a part's file."""
        hashes = dict(self._hashes.finish())
        return _ENCODER.encode(
            [
                _Entry(
                    domain=domain,
                    split=split,
                    documents=each.documents,
                    text_bytes=each.text_bytes,
                    bins=tuple((number, n, each.lengths.tokens[number]) for number, n in sorted(_bins(each))),
                    least=each.lengths.least or 0,
                    most=each.lengths.most,
                    samples=tuple(each.samples),
                    level=hashes[domain, split].level,
                    hashes=hashes[domain, split].dump(),
                )
                for (domain, split), each in sorted(self._of.items())
            ]
        )


def merge(parts: Iterable[bytes]) -> dict[Dataset, Statistics]:
    """Return the statistics of each dataset of a group, of the files of its parts in their order.

    Raises:
        ValueError: a file is damaged.
    """
    merged: dict[Dataset, Statistics] = {}
    mergers: dict[Dataset, HashMerger] = {}
    for dataset, each in _read(parts):
        merged.setdefault(dataset, Statistics()).merge(each)
        assert each.hashes is not None
        merger = mergers.setdefault(dataset, HashMerger(most=_HASHES_OF_GROUP))
        merger.most = max(_HASHES_OF_GROUP // len(mergers), _LEAST_HASHES)
        merger.add(each.hashes)
    most = max(_HASHES_OF_GROUP // max(len(mergers), 1), _LEAST_HASHES)
    for dataset, merger in mergers.items():
        merged[dataset].hashes = merger.finish().fit(most)
    return merged


class _Entry(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The statistics of one dataset in a part's file."""

    domain: str
    split: str
    documents: int
    text_bytes: int
    bins: tuple[tuple[int, int, int], ...]
    least: int
    most: int
    samples: tuple[SampleText, ...]
    level: int
    hashes: bytes


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[_Entry])


def _bins(statistics: Statistics) -> Iterable[tuple[int, int]]:
    return statistics.lengths.documents.items()


def _read(parts: Iterable[bytes]) -> Iterator[tuple[Dataset, Statistics]]:
    for data in parts:
        for entry in _DECODER.decode(data):
            lengths = LengthCounts(
                documents={number: n for number, n, _ in entry.bins},
                tokens={number: tokens for number, _, tokens in entry.bins},
                least=entry.least if entry.documents else None,
                most=entry.most,
            )
            yield (
                (entry.domain, entry.split),
                Statistics(
                    documents=entry.documents,
                    text_bytes=entry.text_bytes,
                    lengths=lengths,
                    samples=list(entry.samples),
                    hashes=Hashes.load(entry.hashes, entry.level),
                ),
            )
