"""Data cards: what `mixstream convert` says of a dataset beyond its index, as files that other commands read.

    OUT/<domain>/<split>/card.json   the card of one dataset (`DatasetCard`), written before its index
    OUT/card.json                    the cards of all datasets and what they have in common (`Card`)
    OUT/tokenizer/                   a copy of the tokenizer's files

Rules. A card is a function of the sources, the recipe and the version that wrote it: it names no time and no machine.
A card that does not match its index describes another state of the dataset, and is not used. What a card says comes
from outside: it is validated here, and escaped where it is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

CARD = "card.json"
TOKENIZER = "tokenizer"
VERSION = 1

_NUMBERS = re.compile(r"\[\n[\s\d,]*\]")
_Count = Annotated[int, msgspec.Meta(ge=0)]


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """How long documents are: a histogram of their tokens.

    Attributes:
        edges: bin number `i` counts the documents of `edges[i]` to `edges[i + 1] - 1` tokens.
        documents: documents of each bin.
        tokens: tokens of these documents.
        least: tokens of the shortest document, exact.
        most: tokens of the longest, exact.
        quantiles_between: of `0.5` and others, the least tokens it can have and one more than the most: the histogram
            knows no more.
    """

    edges: tuple[_Count, ...]
    documents: tuple[_Count, ...]
    tokens: tuple[_Count, ...]
    least: _Count
    most: _Count
    quantiles_between: dict[str, tuple[_Count, _Count]]

    def __post_init__(self) -> None:
        if not len(self.edges) - 1 == len(self.documents) == len(self.tokens) > 0:
            raise ValueError("a histogram has one edge more than bins")
        if any(low >= high for low, high in zip(self.edges, self.edges[1:])):
            raise ValueError("the edges of a histogram rise")


class Duplicates(msgspec.Struct, frozen=True, kw_only=True):
    """Documents whose whole text occurred before in the same dataset, compared by a 64-bit hash.

    Attributes:
        copies: such documents; without them, each text is left once.
        texts: texts that occur more than once.
        exact: whether all documents were compared. Otherwise, the numbers are unbiased estimates: those among the
            documents whose hash is in a part of all hashes, divided by the share of that part.
        share: of the hashes that were compared.
        standard_error: of `copies`, estimated; 0 if exact.
    """

    copies: _Count
    texts: _Count
    exact: bool
    share: float
    standard_error: float


class SampleText(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The beginning of a document; those with the least hashes are samples, whatever wrote them.

    Attributes:
        text: its first characters.
        characters: of the whole text.
        tokens: of the whole document.
        hash: of the whole text, xxh3_64 in hexadecimal digits.
        file: the source file, below its SRC.
        record: the document's number in the file, or in its slice of the file; None if the format has none.
        id: the document's id, if it has one.
    """

    text: str
    characters: _Count
    tokens: _Count
    hash: str
    file: str | None = None
    record: int | None = None
    id: str | None = None


class SourceNamed(msgspec.Struct, frozen=True, kw_only=True):
    """A source file: its path below its SRC, and its bytes as stored."""

    name: str
    bytes: _Count


class SourcesOf(msgspec.Struct, frozen=True, kw_only=True):
    """The files that were converted together: those of a domain, or with `--domain-key` those of all its domains.

    Attributes:
        files: number of files.
        bytes: their size as stored.
        formats: how many have each format.
        first: the first of them.
    """

    files: _Count
    bytes: _Count
    formats: dict[str, _Count]
    first: tuple[SourceNamed, ...]


class DatasetCard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The card of one dataset.

    Attributes:
        version: of the format, `VERSION`.
        made_by: the program and its version.
        domain: name of the domain.
        split: of it.
        documents: number of documents.
        rows: samples of the dataset.
        tokens: tokens in its rows.
        dropped_tokens: tokens at the end that fill no row.
        shards: number of shards.
        text_bytes: of all documents in UTF-8.
        lengths: tokens of each document, with those that begin and end it; None without documents.
        duplicates: documents with the same text; None without documents.
        samples: the beginnings of a few documents.
        tokenizer: its entry in the index.
        options: all options that decide bytes.
        sources: the files it was made of.
    """

    version: int
    made_by: str
    domain: str
    split: str
    documents: _Count
    rows: _Count
    tokens: _Count
    dropped_tokens: _Count
    shards: _Count
    text_bytes: _Count
    lengths: Lengths | None
    duplicates: Duplicates | None
    samples: tuple[SampleText, ...]
    tokenizer: dict[str, Any]
    options: dict[str, Any]
    sources: SourcesOf

    def matches(self, about: Mapping[str, Any]) -> bool:
        """Whether the index with the entry `about` describes the same state of the dataset."""
        same = ("domain", "split", "documents", "rows", "tokens", "dropped_tokens", "shards")
        return all(about.get(name) == getattr(self, name) for name in same)

    def without_samples(self) -> DatasetCard:
        """Return the card without its sample texts."""
        return msgspec.structs.replace(self, samples=())


class Card(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The card of an output: `OUT/card.json`.

    Attributes:
        version: of the format, `VERSION`.
        datasets: the cards of its datasets, by domain and split.
        without: datasets that an earlier version made, which have no card.
        rejects: documents that cannot be read, as `domains.json` counts them; `left_out` counts what filters left out.
        tokenizer_files: the files in `OUT/tokenizer/`, with the sha256 of each.
    """

    version: int
    datasets: tuple[DatasetCard, ...]
    without: tuple[tuple[str, str], ...] = ()
    rejects: dict[str, Any]
    tokenizer_files: dict[str, str] = {}


def dump_card(card: Card | DatasetCard) -> bytes:
    """Return the bytes of a card's file."""
    text = json.dumps(msgspec.to_builtins(card), ensure_ascii=False, indent=1)
    return _NUMBERS.sub(lambda found: " ".join(found[0].split()), text).encode()  # no string has a line break


def read_card(data: bytes) -> Card | None:
    """Return the card in a file's bytes; None if it is of a later format.

    Raises:
        ValueError: it is no card.
    """
    return msgspec.json.decode(data, type=Card) if _is_known(data) else None


def read_dataset_card(data: bytes) -> DatasetCard | None:
    """Return the card of a dataset in a file's bytes; as `read_card`."""
    return msgspec.json.decode(data, type=DatasetCard) if _is_known(data) else None


class _Head(msgspec.Struct):
    version: int


def _is_known(data: bytes) -> bool:
    return msgspec.json.decode(data, type=_Head).version == VERSION
