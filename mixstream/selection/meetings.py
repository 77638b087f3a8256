"""Which rows the lines of a table have met: repeated rows and lines about no row are never dropped without a word.

Rules. A row that two lines of the table meet is refused, unless the caller says which line counts. Lines that meet no
row are counted, and a few of them are remembered.

Shape suffixes: N rows of all domains, B lines of a block of the table, M meetings of a line with a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from mixstream.errors import SelectionError
from mixstream.selection.joining import Lines
from mixstream.types import Int64

Duplicates = Literal["error", "first", "last"]


class Meetings:
    """Which rows a table has met so far, line by line; duplicates are refused, or resolved.

    Of three lines, the last is about the row of the first, and the second is about no row:

    >>> meetings = Meetings(4, duplicates="last")
    >>> lines = {"id": ["a", "x", "a"]}
    >>> [found.tolist() for found in meetings.add(lines, 3, np.array([0, 2]), np.array([1, 1]), ["id"])]
    [[2], [1]]
    >>> meetings.unmatched, meetings.examples, meetings.repeated
    (1, ['x'], 1)

    Args:
        rows: N.
        duplicates: what happens to a row that a second line is about: `"error"`, or the `"first"` or `"last"` counts.
    """

    def __init__(self, rows: int, *, duplicates: Duplicates = "error") -> None:
        self.met_N = np.zeros(rows, dtype=np.bool_)
        self.lines = self.unmatched = self.repeated = 0
        self.examples: list[str] = []
        self._duplicates = duplicates

    def add(self, lines: Lines, count: int, line_M: Int64, row_M: Int64, key: Sequence[str]) -> tuple[Int64, Int64]:
        """Note a block of `count` lines, and return the meetings that count.

        Args:
            lines: the block, for examples.
            count: how many lines it has.
            line_M: lines of the block.
            row_M: rows that they meet.
            key: columns of the table that say which row a line is about.

        Raises:
            SelectionError: a row is met twice, and duplicates are refused.
        """
        self.lines += count
        matched_B = np.zeros(count, dtype=np.bool_)
        matched_B[line_M] = True
        self.unmatched += int(count - np.count_nonzero(matched_B))
        for line in np.flatnonzero(~matched_B)[: max(5 - len(self.examples), 0)].tolist():
            self.examples.append(_named(lines, key, line))
        order_M = np.argsort(row_M, kind="stable")
        new_M = np.ones(len(row_M), dtype=np.bool_)  # of lines about one row in this block, the first or the last
        if len(row_M) > 1:
            sorted_M = row_M[order_M]
            again_M = sorted_M[1:] == sorted_M[:-1]
            (new_M[:-1] if self._duplicates == "last" else new_M[1:])[again_M] = False
        new_M[order_M] = new_M.copy()
        before_M = self.met_N[row_M]
        repeated = int(np.count_nonzero(~new_M | before_M))
        if repeated and self._duplicates == "error":
            line = int(line_M[np.flatnonzero(~new_M | before_M)[0]])
            raise SelectionError(
                f"two lines of the table are about one row: {_again(lines, key, line)} comes again in line "
                f"{self.lines - count + line + 1:,}; nothing was written; say which counts: --duplicates first or last"
            )
        self.repeated += repeated
        if self._duplicates != "last":
            new_M &= ~before_M
        self.met_N[row_M] = True
        return line_M[new_M], row_M[new_M]


def _named(lines: Lines, key: Sequence[str], line: int) -> str:
    """Return what a line says about its row: one value, or all with their columns."""
    values = {column: str(lines[column][line])[:80] for column in key}
    return ", ".join(f"{column} {value}" for column, value in values.items()) if len(key) > 1 else values[key[0]]


def _again(lines: Lines, key: Sequence[str], line: int) -> str:
    named = _named(lines, key, line)
    return named if len(key) > 1 else f"{key[0]} {named!r}"
