"""Where documents begin in the rows of a batch, from whatever knows it.

A `RowDocuments` answers for rows of one domain. What knows borders, best first: a packing, files beside the tokens, the
sidecar that `mixstream convert` writes (both `listed_borders`), and, where nothing is stored, the token that ends or
begins a document (`BorderTokens`, which looks at the tokens that were read). Rules: no Python per row; memory is O(rows
and borders of the batch); border files are mapped, and read where they lie.

A segment is a document, or as much of it as lies in the row: one that a row cuts begins anew in the next.

Shape suffixes: B rows, N segments, S tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mixstream.records import dataclass
from mixstream.types import Int64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowBorders:
    """Where segments begin in some rows: by row, then by token.

    Attributes:
        begin_B1: int64 [B + 1], the first segment of each row, and their number N.
        token_N: int32 [N], the token of its row at which each begins; 0 for the first of each row.
        document_N: int64 [N], the document's number where it is known, of some count; -1 for padding.
    """

    begin_B1: Int64
    token_N: NDArray[np.int32]
    document_N: Int64


class RowDocuments(Protocol):
    """What knows where documents begin in the rows of one domain."""

    def borders(self, shard_B: Int64, row_B: Int64) -> RowBorders:
        """Return the borders in stored rows.

        Args:
            shard_B: int64 [B], their shards, by number in the domain.
            row_B: int64 [B], their numbers in the shard.
        """
        ...


@dataclass(frozen=True)
class WholeRows:
    """Rows that are one document each.

    >>> found = WholeRows().borders(np.zeros(2, np.int64), np.arange(2))
    >>> found.begin_B1.tolist(), found.token_N.tolist()
    ([0, 1, 2], [0, 0])
    """

    def borders(self, shard_B: Int64, row_B: Int64) -> RowBorders:
        """As of `RowDocuments`."""
        del shard_B
        return RowBorders(
            begin_B1=np.arange(len(row_B) + 1, dtype=np.int64),
            token_N=np.zeros(len(row_B), dtype=np.int32),
            document_N=np.arange(len(row_B), dtype=np.int64),
        )


@dataclass(frozen=True, kw_only=True)
class BorderTokens:
    """The tokens at which documents end or begin, in rows of which nothing else is known.

    Tokens of `end` that follow one at the end of a row are padding. The token that ends a document belongs to it.

    >>> found = BorderTokens(end=0).in_rows(np.array([[5, 0, 6, 7], [8, 0, 0, 0]]))
    >>> found.begin_B1.tolist(), found.token_N.tolist(), found.document_N.tolist()
    ([0, 2, 4], [0, 2, 0, 2], [0, 1, 2, -1])

    Args:
        end: the last token of each document; None if nothing marks the end.
        begin: the first token of each document; None likewise.
    """

    end: int | None = None
    begin: int | None = None

    def in_rows(self, tokens_BS: NDArray[Any]) -> RowBorders:
        """Return the borders in rows of these tokens."""
        rows, length = tokens_BS.shape
        found = [np.arange(rows, dtype=np.int64) * length]
        if self.end is not None:
            found.append(np.flatnonzero(tokens_BS == self.end) + 1)
        if self.begin is not None:
            found.append(np.flatnonzero(tokens_BS == self.begin))
        flat_N = np.unique(np.concatenate(found))
        row_N, token_N = np.divmod(flat_N[flat_N < rows * length], length)
        padding_B = self._padding(tokens_BS)
        kept_N = token_N <= padding_B[row_N]
        row_N, token_N = row_N[kept_N], token_N[kept_N]
        return RowBorders(
            begin_B1=np.searchsorted(row_N, np.arange(rows + 1)).astype(np.int64),
            token_N=token_N.astype(np.int32),
            document_N=np.where(token_N == padding_B[row_N], -1, np.arange(len(row_N))),
        )

    def _padding(self, tokens_BS: NDArray[Any]) -> Int64:
        """Return at which token the padding of each row begins, int64 [B]; S if it has none."""
        rows, length = tokens_BS.shape
        padding_B = np.full(rows, length, dtype=np.int64)
        if self.end is not None and length > 1:
            here = np.flatnonzero((tokens_BS[:, -2:] == self.end).all(axis=1))
            other_BS = tokens_BS[here, ::-1] != self.end
            # The first of the tokens at the end ends a document, the next one begins the padding.
            padding_B[here] = np.where(other_BS.any(axis=1), length + 1 - other_BS.argmax(axis=1), 1)
        return padding_B


def joined(parts: Sequence[tuple[Int64, RowBorders]]) -> RowBorders:
    """Return the borders of a batch, from those of some of its rows each.

    >>> one = RowBorders(begin_B1=np.array([0, 2]), token_N=np.array([0, 3], np.int32), document_N=np.array([7, 8]))
    >>> both = joined([(np.array([1]), one), (np.array([0]), one)])
    >>> both.begin_B1.tolist(), both.token_N.tolist()
    ([0, 2, 4], [0, 3, 0, 3])
    """
    size_B = np.zeros(sum(len(here_B) for here_B, _ in parts), dtype=np.int64)
    for here_B, found in parts:
        size_B[here_B] = np.diff(found.begin_B1)
    begin_B1 = np.concatenate(([0], np.cumsum(size_B)))
    token_N, document_N = np.empty(begin_B1[-1], dtype=np.int32), np.empty(begin_B1[-1], dtype=np.int64)
    for here_B, found in parts:
        move_B = begin_B1[here_B] - found.begin_B1[:-1]
        to_n = np.arange(len(found.token_N)) + np.repeat(move_B, np.diff(found.begin_B1))
        token_N[to_n], document_N[to_n] = found.token_N, found.document_N
    return RowBorders(begin_B1=begin_B1, token_N=token_N, document_N=document_N)


def padded(borders: RowBorders, stored_B: Int64, length: int) -> RowBorders:
    """Return the borders of rows of `length` tokens of which the first `stored_B` are those of `borders`, or fewer.

    >>> one = RowBorders(begin_B1=np.array([0, 2]), token_N=np.array([0, 3], np.int32), document_N=np.array([7, 8]))
    >>> more = padded(one, np.array([5]), 9)
    >>> more.token_N.tolist(), more.document_N.tolist(), padded(one, np.array([5]), 3).token_N.tolist()
    ([0, 3, 5], [7, 8, -1], [0])
    """
    row_N = np.repeat(np.arange(len(stored_B)), np.diff(borders.begin_B1))
    kept_N = borders.token_N < np.minimum(stored_B, length)[row_N]
    short_B = np.flatnonzero(stored_B < length)
    row_M = np.concatenate([row_N[kept_N], short_B])
    order_M = np.argsort(row_M, kind="stable")
    token_M = np.concatenate([borders.token_N[kept_N], stored_B[short_B]]).astype(np.int32)
    document_M = np.concatenate([borders.document_N[kept_N], np.full(len(short_B), -1)])
    return RowBorders(
        begin_B1=np.concatenate(([0], np.cumsum(np.bincount(row_M, minlength=len(stored_B))))).astype(np.int64),
        token_N=token_M[order_M],
        document_N=document_M[order_M],
    )
