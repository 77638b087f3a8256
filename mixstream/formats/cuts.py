"""Borders of documents in a file of tokens, read from the mapped bytes of the file that lists them.

Rules: border files have gigabytes, so no copy of one is made; positions are read a few at a time, or in blocks.
Kernels read the same bytes by address. All of a border file was checked before there are `Cuts` of it.
"""

from bisect import bisect_right
from collections.abc import Callable

import numpy as np

from mixstream.records import dataclass
from mixstream.types import Int64, UInt8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cuts:
    """Where the documents of one file begin or end: ascending integers of 8 bytes in a mapped border file.

    Two documents of 3 and 2 tokens, as their ends (`.ds.index`), and as the bytes of 2-byte tokens at which they begin
    (Megatron's pointers); neither integers nor array have to be aligned:

    >>> ends = Cuts(data=np.array([3, 5], "<u8").view(np.uint8), at=0, count=2, unit=1, first=1, tokens=5)
    >>> begins = Cuts(data=np.array([0, 6], "<u8").view(np.uint8), at=0, count=2, unit=2, first=0, tokens=5)
    >>> [cuts.begins(0, 3).tolist() for cuts in (ends, begins)], ends.find(3), begins.find(2)
    ([[0, 3, 5], [0, 3, 5]], 1, 0)

    Attributes:
        data: the border file, uint8 [bytes].
        at: byte of `data` at which the first integer stands.
        count: how many integers there are, which is how many documents are listed.
        unit: an integer // `unit` is a position in the file, counted in tokens.
        first: the document that begins at the first integer's position: 0 if integers are begins, 1 if they are ends.
        tokens: tokens of the file. Those behind the last listed end, if there are any, have the document `count`.
    """

    data: UInt8
    at: int
    count: int
    unit: int
    first: int
    tokens: int

    def position(self, number: int) -> int:
        """Return one of the positions, by its place in the list."""
        at = self.at + 8 * number
        return int.from_bytes(self.data[at : at + 8].tobytes(), "little") // self.unit

    def positions(self, begin: int, end: int) -> Int64:
        """Return the positions [begin, end) of the list, int64; a copy."""
        raw = self.data[self.at + 8 * begin : self.at + 8 * end].tobytes()
        return np.frombuffer(raw, dtype="<i8").astype(np.int64) // self.unit

    def begin(self, document: int) -> int:
        """Return the token at which a document begins; of document `count`, where the last listed one ends."""
        if (number := document - self.first) < 0:
            return 0
        return self.position(number) if number < self.count else self.tokens

    def begins(self, first: int, end: int) -> Int64:
        """Return the tokens at which the documents [first, end) begin, int64; `end` is at most `count + 1`.

        So the lengths of all documents are `np.diff(cuts.begins(0, cuts.count + 1))`; take them in blocks.
        """
        listed = self.positions(max(first - self.first, 0), min(max(end - self.first, 0), self.count))
        before = [0] * (min(end, self.first) - min(first, self.first))
        after = [self.tokens] * (end - first - len(before) - len(listed))
        return np.concatenate((before, listed, after)).astype(np.int64)

    def find(self, token: int) -> int:
        """Return the document that has the token at a position: the last one that begins there or before."""
        return bisect_right(range(self.count), token, key=self.position) - 1 + self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class CutRows:
    """Rows that are documents of one file, whose borders are in another one.

    Attributes:
        cuts: returns the borders of the file.
        document: the first document of the shard.
        token: the token of the file at which the shard begins.
        itemsize: bytes of a token.
    """

    cuts: Callable[[], Cuts]
    document: int
    token: int
    itemsize: int

    def begins(self, data: UInt8, rows: int) -> Int64:
        """Return the tokens at which the `rows` rows of the shard begin, and the last one ends, int64 [rows + 1]."""
        del data
        return self.cuts().begins(self.document, self.document + rows + 1) - self.token

    def span(self, data: UInt8, row: int) -> tuple[int, int]:
        """Return the bytes [begin, end) of document `row` of the shard."""
        del data
        cuts, number = self.cuts(), self.document + row
        begin, end = cuts.begin(number), cuts.begin(number + 1)
        return (begin - self.token) * self.itemsize, (end - self.token) * self.itemsize
