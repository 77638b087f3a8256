"""How long documents are: a histogram with fixed bins, so that the histograms of parts add up exactly.

Bins: each length below 8 has its own; above, four bins divide every power of two: 8, 10, 12, 14, 16, 20, 24, 28, 32, …
So a bin is at most a quarter of its length wide, and 200 bins hold all lengths there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...shared.cards import Lengths

_EXACT = 3
"""Lengths of so many bits have a bin of their own."""
_BITS = 2
"""The bits after the first that tell bins of longer ones apart."""
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def bin_of(length: int) -> int:
    """Return the number of the bin of a length.

    >>> [bin_of(length) for length in (0, 7, 8, 9, 10, 15, 16)]
    [0, 7, 8, 8, 9, 11, 12]
    """
    above = length.bit_length() - 1 - _EXACT
    if above < 0:
        return length
    shift = above + _EXACT - _BITS
    return (1 << _EXACT) + (above << _BITS) + (length >> shift) - (1 << _BITS)


def edge_of(number: int) -> int:
    """Return the least length of a bin.

    >>> [edge_of(number) for number in range(6, 17)]
    [6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32]
    """
    octave, rest = divmod(number - (1 << _EXACT), 1 << _BITS)
    if octave < 0:
        return number
    return ((1 << _BITS) + rest) << (octave + _EXACT - _BITS)


@dataclass(kw_only=True, slots=True)
class LengthCounts:
    """Counts lengths.

    Attributes:
        documents: of each bin that has any.
        tokens: of these documents.
        least: the least length; None before the first.
        most: the greatest.
    """

    documents: dict[int, int] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    least: int | None = None
    most: int = 0

    def add(self, length: int) -> None:
        """Count a document."""
        number = bin_of(length)
        self.documents[number] = self.documents.get(number, 0) + 1
        self.tokens[number] = self.tokens.get(number, 0) + length
        self.least = length if self.least is None else min(self.least, length)
        self.most = max(self.most, length)

    def merge(self, other: LengthCounts) -> None:
        """Add what another counted."""
        for mine, theirs in ((self.documents, other.documents), (self.tokens, other.tokens)):
            for number, count in theirs.items():
                mine[number] = mine.get(number, 0) + count
        if other.least is not None:
            self.least = other.least if self.least is None else min(self.least, other.least)
        self.most = max(self.most, other.most)

    def describe(self) -> Lengths | None:
        """Return the histogram from its first bin that has documents to its last; None if none has."""
        if self.least is None:
            return None
        numbers = range(min(self.documents), max(self.documents) + 1)
        return Lengths(
            edges=tuple(map(edge_of, (*numbers, numbers.stop))),
            documents=tuple(self.documents.get(number, 0) for number in numbers),
            tokens=tuple(self.tokens.get(number, 0) for number in numbers),
            least=self.least,
            most=self.most,
            quantiles_between={str(q): self._quantile(self.documents, q) for q in _QUANTILES},
        )

    def _quantile(self, documents: Mapping[int, int], q: float) -> tuple[int, int]:
        """Bounds of the least length that a share `q` of the documents does not exceed."""
        wanted, seen = q * sum(documents.values()), 0
        for number in sorted(documents):
            seen += documents[number]
            if seen >= wanted:
                return max(edge_of(number), self.least or 0), min(edge_of(number + 1), self.most + 1)
        raise AssertionError("a share of all documents is at most all of them")
