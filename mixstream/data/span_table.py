"""Which spans the rows of packed shards have: runs of tokens of stored samples, side by side.

A packing fills the table shard by shard, as shards are opened; `collect_spans` finds the spans of a batch's rows in one
call that releases the GIL, over all shards. The compiled loop reads memory addresses, so the table keeps the arrays.

Shape suffixes: B rows of a batch, N spans, R rows of a shard, S shards.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.data.loop_memory import carray, pointer
from mixstream.data.sequence_rows import SequenceRows
from mixstream.plan.compiled import beside, compile_loop
from mixstream.records import dataclass
from mixstream.types import Int64

JOINED = 1 << 31
"""The bit of a stored span's `tokens` that says: it goes on with the document of the span before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """The spans of some rows, one row after the other.

    Attributes:
        begin_B1: int64 [B + 1], where the spans of each row begin; the last entry is N.
        shard_N: int64 [N], the shard.
        sample_N: int64 [N], the stored sample; 0 in a shard of bare tokens, which is one sample.
        start_N: int64 [N], the first token of the span in its sample.
        tokens_N: int64 [N], how many tokens it has.
        joined_N: bool [N], whether a span goes on with the document of the span before.
    """

    begin_B1: Int64
    shard_N: Int64
    sample_N: Int64
    start_N: Int64
    tokens_N: Int64
    joined_N: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSpans:
    """The rows of one shard, as a packing stores them.

    Attributes:
        begin_R1: uint32 [rows + 1], where the spans of each row begin, from 0.
        span_N3: uint32 [spans, 3], sample, start and tokens (with `JOINED`) of each span.
    """

    begin_R1: NDArray[np.uint32]
    span_N3: NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvenRows:
    """The rows of one shard whose stored rows, all of one length, are read one after the other and cut anew.

    Attributes:
        rows: how many there are.
        seq_len: tokens of a row.
        stored: tokens of a stored row.
    """

    rows: int
    seq_len: int
    stored: int


RowSpans = StoredSpans | EvenRows | SequenceRows
"""Which spans the rows of one shard have."""


class SpanTable:
    """The rows of the packed shards that are open, with the memory addresses that the compiled loop reads.

    Attributes:
        shards: number -> its rows; the arrays below have nothing of `SequenceRows` but their number.
        begin_S, span_S: uint64 [S], addresses of `StoredSpans`; 0 for `EvenRows`.
        rows_S: int64 [S], rows of each shard; 0 for one that is not open.
        spans_S: int64 [S], its spans.
        seq_len_S, stored_S: int64 [S], of `EvenRows`; 0 for `StoredSpans`.
        computed: whether rows are `SequenceRows`, as those of all shards are then.
        room: spans for which `collect_spans` has room at its first try; it grows.
    """

    def __init__(self, shards: int) -> None:
        self.shards: dict[int, RowSpans] = {}
        self.begin_S, self.span_S = np.zeros(shards, dtype=np.uint64), np.zeros(shards, dtype=np.uint64)
        self.rows_S, self.spans_S = np.zeros(shards, dtype=np.int64), np.zeros(shards, dtype=np.int64)
        self.seq_len_S, self.stored_S = np.zeros(shards, dtype=np.int64), np.zeros(shards, dtype=np.int64)
        self.computed = False
        self.room = 256

    def put(self, shard: int, rows: RowSpans) -> None:
        """Add a shard's rows, whose arrays must not move as long as the table lives."""
        self.shards[shard] = rows
        if isinstance(rows, SequenceRows):
            self.rows_S[shard], self.computed = rows.rows, True
            return
        if isinstance(rows, EvenRows):
            self.rows_S[shard], self.seq_len_S[shard], self.stored_S[shard] = rows.rows, rows.seq_len, rows.stored
            return
        assert rows.begin_R1.flags.c_contiguous, "addresses are computed"
        assert rows.span_N3.flags.c_contiguous, "addresses are computed"
        self.begin_S[shard], self.span_S[shard] = rows.begin_R1.ctypes.data, rows.span_N3.ctypes.data
        self.rows_S[shard], self.spans_S[shard] = len(rows.begin_R1) - 1, len(rows.span_N3)

    def __getstate__(self) -> dict[str, Any]:
        return {"shards": len(self.rows_S)}  # addresses belong to their process

    def __setstate__(self, state: dict[str, Any]) -> None:
        SpanTable.__init__(self, **state)


def collect_spans_reference(table: SpanTable, shard_B: Int64, row_B: Int64) -> Spans | int:
    """Return the spans of the rows (`shard_B`, `row_B`), or the position in `row_B` of the first row that is none.

    Two rows of a shard: six tokens of sample 0, and the last two of sample 0 with three of sample 2:

    >>> table = SpanTable(shards=5)
    >>> spans = np.array([[0, 0, 6], [0, 6, 2], [2, 0, 3]], dtype=np.uint32)
    >>> table.put(3, StoredSpans(begin_R1=np.array([0, 1, 3], dtype=np.uint32), span_N3=spans))
    >>> found = collect_spans_reference(table, np.array([3]), np.array([1]))
    >>> found.sample_N.tolist(), found.start_N.tolist(), found.tokens_N.tolist()
    ([0, 2], [6, 0], [2, 3])
    """
    if table.computed:
        return compute_spans(table, shard_B, row_B)
    begin, parts = [0], []
    for i, (shard, row) in enumerate(zip(shard_B.tolist(), row_B.tolist())):
        rows = table.shards.get(shard)
        if rows is None or not 0 <= row < table.rows_S[shard]:
            return i
        if isinstance(rows, EvenRows):
            first, end, stored = row * rows.seq_len, (row + 1) * rows.seq_len, rows.stored
            found = [
                (shard, at // stored, at % stored, min(end, (at // stored + 1) * stored) - at, at > first)
                for at in (first, *range((first // stored + 1) * stored, end, stored))
            ]
        else:
            assert isinstance(rows, StoredSpans)
            low, high = rows.begin_R1[row : row + 2].tolist()
            if not low <= high <= len(rows.span_N3):
                return i
            found = [
                (shard, sample, start, tokens & (JOINED - 1), bool(tokens & JOINED))
                for sample, start, tokens in rows.span_N3[low:high].tolist()
            ]
        parts += found
        begin.append(len(parts))
    columns = np.array(parts, dtype=np.int64).reshape(len(parts), 5).T
    return Spans(
        begin_B1=np.array(begin, dtype=np.int64),
        shard_N=columns[0].copy(),
        sample_N=columns[1].copy(),
        start_N=columns[2].copy(),
        tokens_N=columns[3].copy(),
        joined_N=columns[4].astype(np.bool_),
    )


def compute_spans(table: SpanTable, shard_B: Int64, row_B: Int64) -> Spans | int:
    """Return what `collect_spans_reference` returns, for shards of which all have `SequenceRows`."""
    outside_B = (row_B < 0) | (row_B >= table.rows_S[shard_B])
    if outside_B.any():
        return int(np.argmax(outside_B))
    count_B, parts = np.empty(len(row_B), dtype=np.int64), []
    for shard in np.unique(shard_B).tolist():
        here_B, rows = np.flatnonzero(shard_B == shard), table.shards[shard]
        assert isinstance(rows, SequenceRows), "rows of a domain in Megatron's order"
        count_B[here_B], *spans = rows.spans(row_B[here_B])
        parts.append((shard, here_B, spans))
    begin_B1 = np.concatenate(([0], np.cumsum(count_B)))
    shard_N, start_N, tokens_N = np.empty((3, int(begin_B1[-1])), dtype=np.int64)
    for shard, here_B, (start_R, tokens_R) in parts:
        end_B = np.cumsum(count_B[here_B])
        to_R = np.arange(len(start_R)) + np.repeat(begin_B1[here_B] - end_B + count_B[here_B], count_B[here_B])
        shard_N[to_R], start_N[to_R], tokens_N[to_R] = shard, start_R, tokens_R
    joined_N = np.zeros(len(shard_N), dtype=np.bool_)
    return Spans(
        begin_B1=begin_B1, shard_N=shard_N, sample_N=np.zeros_like(shard_N), start_N=start_N, tokens_N=tokens_N,
        joined_N=joined_N,
    )  # fmt: skip


def _collect_loop(
    begin_S: Any,
    span_S: Any,
    rows_S: Any,
    spans_S: Any,
    seq_len_S: Any,
    stored_S: Any,
    shard_B: Any,
    row_B: Any,
    begin_B1: Any,
    span_N4: Any,
    joined_N: Any,
) -> int:  # pragma: no cover - compiled
    count, room = np.int64(0), len(joined_N)
    for i in range(len(row_B)):
        shard, row = shard_B[i], row_B[i]
        if row < 0 or row >= rows_S[shard]:
            return i
        if stored_S[shard]:
            stored = stored_S[shard]
            at, end, first = row * seq_len_S[shard], (row + 1) * seq_len_S[shard], True
            while at < end:
                tokens = min(end, (at // stored + 1) * stored) - at
                if count < room:
                    span_N4[0, count], span_N4[1, count] = shard, at // stored
                    span_N4[2, count], span_N4[3, count] = at % stored, tokens
                    joined_N[count] = not first
                at += tokens
                count += 1
                first = False
        else:
            edges = carray(pointer(begin_S[shard] + np.uint64(4 * row)), (2,), np.uint32)
            low, high = np.int64(edges[0]), np.int64(edges[1])
            if low > high or high > spans_S[shard]:
                return i
            if count + high - low <= room:
                some = carray(pointer(span_S[shard] + np.uint64(12 * low)), (3 * (high - low),), np.uint32)
                for n in range(high - low):
                    tokens = np.int64(some[3 * n + 2])
                    span_N4[0, count + n], span_N4[1, count + n] = shard, some[3 * n]
                    span_N4[2, count + n], span_N4[3, count + n] = some[3 * n + 1], tokens & 0x7FFFFFFF
                    joined_N[count + n] = tokens > 0x7FFFFFFF
            count += high - low
        begin_B1[i + 1] = count
    return -1


_compiled = compile_loop(_collect_loop)


@beside(collect_spans_reference)
def collect_spans(table: SpanTable, shard_B: Int64, row_B: Int64) -> Spans | int:
    """Compiled `collect_spans_reference`."""
    if table.computed:
        return compute_spans(table, shard_B, row_B)
    begin_B1 = np.empty(len(row_B) + 1, dtype=np.int64)
    begin_B1[0] = 0
    facts = table.begin_S, table.span_S, table.rows_S, table.spans_S, table.seq_len_S, table.stored_S
    while True:
        span_N4 = np.empty((4, table.room), dtype=np.int64)
        joined_N = np.empty(table.room, dtype=np.bool_)
        bad = int(_compiled(*facts, shard_B, row_B, begin_B1, span_N4, joined_N))
        if bad >= 0:
            return bad
        if (count := int(begin_B1[-1])) <= table.room:
            span_N4, joined_N = span_N4[:, :count], joined_N[:count]
            break
        table.room = count + count // 4  # batches of one run are much alike
    shard_N, sample_N, start_N, tokens_N = span_N4
    return Spans(
        begin_B1=begin_B1, shard_N=shard_N, sample_N=sample_N, start_N=start_N, tokens_N=tokens_N, joined_N=joined_N
    )
