"""What a reader is, and what all readers share: the record of a document, and how a long document is cut into pieces.

A reader turns a slice of a file into documents. A long document comes as several pieces, so memory is bounded by a
piece and not by a file. A document that cannot be read is reported to `on_bad` and never reaches the output in part.

Invariant: the documents of a file's slices, in order, are the documents of the file, wherever the file is cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ..files import OnBytes, Slice

PIECE_CHARS = 4 << 20
"""Documents longer than this many characters come in pieces, cut where a line or a word ends."""
_LINE_START = re.compile(r"\n(?=\S)")
_WORD_START = re.compile(r"\S(?=\s)")

OnBad = Callable[[str], None]
"""Takes what is wrong with a document, and where. It raises, or returns if the document is to be left out."""


class Piece(NamedTuple):
    """A document, or a part of a long one: `Piece("def f(): ...", None, True, True)` is a whole document."""

    text: str
    domain: str | None
    """The value of the field `--domain-key`; None if the command line names the domain."""
    begins: bool
    ends: bool
    separated: bool = False
    """Whether a `--document-separator` was found behind it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """What a document is.

    Attributes:
        text: in JSON, the field with the text; `meta.source` reaches into objects.
        domain: in JSON, the field with the domain; None if the command line names it.
        separator: in text files, what stands between two documents; None if a file is one document.
        forbidden: texts that make a document bad, the special tokens of `--special-tokens error`.
    """

    text: str
    domain: str | None = None
    separator: str | None = None
    forbidden: tuple[str, ...] = ()

    def find_forbidden(self, text: str) -> tuple[str, int] | None:
        """Return the first of `forbidden` in a text, and the character where it begins."""
        if not self.forbidden:
            return None
        found = pattern_of(self.forbidden).search(text)
        return None if found is None else (found[0], found.start())


@lru_cache(maxsize=8)
def pattern_of(words: tuple[str, ...]) -> re.Pattern[str]:
    """Return the pattern of any of these words, the longest first."""
    return re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """One source format.

    Attributes:
        suffixes: suffixes of its files, in lower case and without that of a compression (`.jsonl`).
        read: slice, fields, `on_bad`, `on_bytes` (called with the number of stored bytes read) → pieces in order.
        divisible: whether a slice may begin at any byte of an uncompressed file.
        has_fields: whether documents have fields, as `--domain-key` needs them.
    """

    suffixes: frozenset[str]
    read: Callable[[Slice, Fields, OnBad, OnBytes], Iterator[Piece]]
    divisible: bool = False
    has_fields: bool = False


def pieces_of(text: str, domain: str | None = None) -> Iterable[Piece]:
    """The pieces of a document; none if it is empty."""
    return (Piece(text, domain, True, True),) if 0 < len(text) <= PIECE_CHARS else cut_blocks(iter([text]), domain)


def cut_blocks(blocks: Iterator[str], domain: str | None = None) -> Iterator[Piece]:
    """The pieces of a document that comes in blocks of any size; none if it is empty."""
    texts = _cut(blocks)
    held = next(texts, None)
    begins = True
    while held is not None:
        following = next(texts, None)
        yield Piece(held, domain, begins, following is None)
        held, begins = following, False


def _cut(blocks: Iterator[str]) -> Iterator[str]:
    """Blocks of any size → the same text in blocks of at most PIECE_CHARS."""
    held = ""
    for block in blocks:
        held += block
        while len(held) > PIECE_CHARS:
            at = _end_of_piece(held)
            yield held[:at]
            held = held[at:]
    if held:
        yield held


def _end_of_piece(text: str) -> int:
    """Where to end the first piece of `text`: between lines, else between words, else anywhere.

    The tokens do not depend on it (long_texts.py). The split of the document does (work.py: `is_val`), so to cut
    otherwise would move long documents between train and val.
    """
    low = PIECE_CHARS - (PIECE_CHARS >> 4)
    for pattern in (_LINE_START, _WORD_START):
        ends = [match.end() for match in pattern.finditer(text, low, PIECE_CHARS)]
        if ends:
            return ends[-1]
    return PIECE_CHARS
