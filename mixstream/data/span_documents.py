"""Borders of documents in packed rows: a packing lists the spans of which each row is made.

Shape suffixes: B rows, N spans, M segments, L tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

import numpy as np

from mixstream.data.row_documents import RowBorders
from mixstream.data.span_table import RowSpans, Spans, SpanTable, collect_spans
from mixstream.errors import ShardCorruptError
from mixstream.records import dataclass
from mixstream.types import Int64


def span_borders(spans: Spans, seq_len: int) -> RowBorders:
    """Return where segments begin in rows of `seq_len` tokens; what the spans do not fill is padding.

    A row of a document in two spans, of a second document, and of two tokens of padding:

    >>> spans = Spans(
    ...     begin_B1=np.array([0, 3]), shard_N=np.zeros(3, np.int64), sample_N=np.array([4, 5, 9]),
    ...     start_N=np.zeros(3, np.int64), tokens_N=np.array([3, 1, 2]), joined_N=np.array([False, True, False]))
    >>> found = span_borders(spans, 8)
    >>> found.token_N.tolist(), found.document_N.tolist()
    ([0, 4, 6], [0, 2, -1])
    """
    rows, count_B = len(spans.begin_B1) - 1, np.diff(spans.begin_B1)
    row_N, end_N = np.repeat(np.arange(rows), count_B), np.cumsum(spans.tokens_N)
    before_B1 = np.concatenate(([0], end_N))[spans.begin_B1]
    token_N = end_N - spans.tokens_N - before_B1[row_N]
    begins_N = (spans.tokens_N > 0) & (~spans.joined_N | (token_N == 0))
    filled_B = np.diff(before_B1)
    short_B = np.flatnonzero(filled_B < seq_len)
    row_M = np.concatenate([row_N[begins_N], short_B])
    order_M = np.argsort(row_M, kind="stable")
    token_M = np.concatenate([token_N[begins_N], filled_B[short_B]])
    document_M = np.concatenate([np.flatnonzero(begins_N), np.full(len(short_B), -1)])
    return RowBorders(
        begin_B1=np.concatenate(([0], np.cumsum(np.bincount(row_M, minlength=rows)))).astype(np.int64),
        token_N=token_M[order_M].astype(np.int32),
        document_N=document_M[order_M],
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class SpanDocuments:
    """The borders in packed rows, of which every span that is not joined begins a document: a `RowDocuments`.

    Args:
        shards: how many there are.
        seq_len: tokens of a row.
        rows_of: shard -> its rows, as of `Packed`.
    """

    shards: int
    seq_len: int
    rows_of: Callable[[int], RowSpans]
    _table: list[SpanTable] = field(default_factory=list, repr=False)

    def __reduce__(self) -> tuple[object, ...]:  # without addresses of this process
        return _made, (self.shards, self.seq_len, self.rows_of)

    def borders(self, shard_B: Int64, row_B: Int64) -> RowBorders:
        """As of `RowDocuments`.

        Raises:
            ShardCorruptError: there are no such rows, or spans are not in order.
            SelectionError: the packing is damaged.
        """
        if not self._table:
            self._table.append(SpanTable(self.shards))
        table = self._table[0]
        for shard in np.unique(shard_B[table.rows_S[shard_B] == 0]).tolist():
            table.put(shard, self.rows_of(shard))
        spans = collect_spans(table, shard_B, row_B)
        if isinstance(spans, int):
            raise ShardCorruptError(
                f"row {row_B[spans]} of shard {shard_B[spans]} is not in the packing, or its spans are damaged: pack "
                "the dataset again"
            )
        return span_borders(spans, self.seq_len)


def _made(shards: int, seq_len: int, rows_of: Callable[[int], RowSpans]) -> SpanDocuments:
    return SpanDocuments(shards=shards, seq_len=seq_len, rows_of=rows_of)
