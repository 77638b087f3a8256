"""What a reader is, and what all readers share: the record of a document, and how a long document is cut into pieces.

A reader turns a slice of a file into documents. A long document comes as several pieces, so memory is bounded by a
piece and not by a file. A document that cannot be read is reported to `on_bad` and never reaches the output in part.

Invariant: the documents of a file's slices, in order, are the documents of the file, wherever the file is cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from ..documents.chat import Spans
from ..documents.fields import Fields
from ..files.source_files import OnBytes, Slice

PIECE_CHARS = 4 << 20
"""Documents longer than this many characters come in pieces, cut where a line or a word ends."""
MAX_RECORD = 256 << 20
"""Bytes of a record of an archive, which is held in memory; a larger one is a bad document."""
_LINE_START = re.compile(r"\n(?=\S)")
_WORD_START = re.compile(r"\S(?=\s)")


class OnBad(Protocol):
    """Takes what is wrong with a document. It raises, or returns if the document is to be left out."""

    def __call__(
        self,
        fact: str,
        *,
        record: int | None = None,
        excerpt: str = "",
        reason: str = "unreadable",
        left_out: str = "",
    ) -> None:
        """Report a fault.

        Args:
            fact: what is wrong, and where.
            record: the number of the record, as in `Record`; None if it is not known.
            excerpt: the beginning of the document, as far as it can be read.
            reason: the kind of fault in a word, as `not-utf8`, for tables of rejects.
            left_out: of what holds no document, such as a picture in an archive: its kind in words that follow a
                number (`3 links`). It is counted by kind, and never raised.
        """
        ...


class Html(str):
    """A field with HTML, which is no text before `--extract` makes one of it."""

    __slots__ = ()


class Record(NamedTuple):
    """A record of a format with fields: a JSON object, a row of a table, a sample of an archive."""

    value: object
    """A dict, field to value; whatever else it is, is reported as no document."""
    number: int
    """Its place in the file, from 0; with `Reader.numbered_by = "slice"`, its place in the slice. Blank and bad ones
    count too."""
    at: int = -1
    """Where it begins, as the reader's `place` understands it."""


class Origin(NamedTuple):
    """Where a document comes from."""

    record: int
    """As `Record.number`."""
    id: str | None = None
    """Its id; None for none of its own."""
    kept: tuple[object, ...] = ()
    """The values of `Fields.keep`."""


class Piece(NamedTuple):
    """A document, or a part of a long one: `Piece("def f(): ...", None, True, True)` is a whole document."""

    text: str
    domain: str | None
    """The value of the field `--domain-key`; None if the command line names the domain."""
    begins: bool
    ends: bool
    separated: bool = False
    """Whether a `--document-separator` was found behind it."""
    origin: Origin | None = None
    """Of a document's first piece; None of the others."""
    learned: Spans | None = None
    """Of a chat, which is always one piece, the characters that count in the loss."""


Pieces = Generator[Piece, None, int]
"""The pieces of a slice, and at the end how many records the slice has, blank and bad ones too."""
Records = Generator[Record, None, int]
"""The records of a slice, and at the end how many it has."""
Columns = Set[str] | None
"""The fields that are needed; None for all. A reader may give more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """One source format: it has either `pieces` or `records`.

    Attributes:
        suffixes: suffixes of its files, in lower case and without that of a compression (`.jsonl`).
        pieces: slice, fields, `on_bad`, `on_bytes` (called with the number of stored bytes read) → pieces in order.
        magic: first bytes of its files, one of these; none for a format of text. Such a file cannot be compressed.
        records: slice, columns, `on_bad`, `on_bytes` → records in order, of which documents.py makes documents.
        place: slice and record → where it is, for errors (`line 7`); default: `record N`, from 0.
        divisible: whether a slice may begin at any byte of an uncompressed file.
        separable: whether it may if there is a `--document-separator`.
        numbered_by: what the numbers of records count from, "file" or "slice".
    """

    suffixes: frozenset[str]
    magic: tuple[bytes, ...] = ()
    pieces: Callable[[Slice, Fields, OnBad, OnBytes], Pieces] | None = None
    records: Callable[[Slice, Columns, OnBad, OnBytes], Records] | None = None
    place: Callable[[Slice, Record], str] | None = None
    divisible: bool = False
    separable: bool = False
    numbered_by: Literal["file", "slice"] = "file"

    @property
    def has_fields(self) -> bool:
        """Whether documents have fields, as `--domain-key` needs them."""
        return self.records is not None


def pieces_of(text: str, domain: str | None = None, origin: Origin | None = None) -> Iterable[Piece]:
    """The pieces of a document; none if it is empty."""
    if 0 < len(text) <= PIECE_CHARS:
        return (Piece(text, domain, True, True, False, origin),)
    return cut_blocks(iter([text]), domain, origin)


def cut_blocks(blocks: Iterator[str], domain: str | None = None, origin: Origin | None = None) -> Iterator[Piece]:
    """The pieces of a document that comes in blocks of any size; none if it is empty."""
    texts = _cut(blocks)
    held = next(texts, None)
    begins = True
    while held is not None:
        following = next(texts, None)
        yield Piece(held, domain, begins, following is None, False, origin if begins else None)
        held, begins = following, False


def _cut(blocks: Iterator[str]) -> Iterator[str]:
    """Blocks of any size → the same text in blocks of at most PIECE_CHARS."""
    held = ""
    for block in blocks:
        held += block
        begin = 0
        while len(held) - begin > PIECE_CHARS:
            end = _end_of_piece(held, begin)
            yield held[begin:end]
            begin = end
        held = held[begin:]
    if held:
        yield held


def _end_of_piece(text: str, begin: int) -> int:
    """Where to end the piece of `text` that begins at `begin`: between lines, else between words, else anywhere.

    The tokens do not depend on it (long_texts.py). The split of the document does (work.py: `is_val`), so to cut
    otherwise would move long documents between train and val.
    """
    end = begin + PIECE_CHARS
    for pattern in (_LINE_START, _WORD_START):
        ends = [match.end() for match in pattern.finditer(text, end - (PIECE_CHARS >> 4), end)]
        if ends:
            return ends[-1]
    return end
