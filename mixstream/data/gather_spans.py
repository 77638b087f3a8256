"""Rows made of spans: runs of tokens of stored samples, copied side by side into a batch by one call without the GIL.

`span_table` says which spans the rows of a packing have; the spans of other rows may be computed in any way. What a row
lacks to its length is filled with `pad`. The compiled loop has its numpy reference beside it.

Everything is untrusted: every span is checked against its sample, every sample against its shard, as in `gather`.

Shape suffixes: B rows, C columns of the record, N spans, S shards, L tokens of a row.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.data.gather import ShardTable
from mixstream.data.loop_memory import carray, pointer
from mixstream.data.span_table import Spans
from mixstream.formats import OffsetTable
from mixstream.plan.compiled import beside, compile_loop
from mixstream.records import dataclass
from mixstream.types import Int64, UInt8


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanField:
    """Where a column of tokens lies in its samples.

    Attributes:
        dtype: stored dtype, little-endian.
        flat: the byte of a shard at which its tokens begin, where the shard is one sample; None where samples are
            records.
        rows: where records lie in a shard; None if `flat`.
        column: the column's position in the record.
        sizes_C: int64 [C], bytes of each column of the record; -1 where that varies.
        shaped: whether values have their shape before them (`ndarray:DTYPE`).
    """

    dtype: np.dtype[Any]
    flat: int | None = None
    rows: OffsetTable | None = None
    column: int = 0
    sizes_C: Int64 | None = None
    shaped: bool = False


def sample_values(data: UInt8, sample: int, field: SpanField) -> NDArray[Any] | None:
    """Return the values of a column in a stored sample, one-dimensional, a view; None if the bytes are no such sample.

    >>> data = np.array([7, 8, 9], dtype="<u2").view(np.uint8)
    >>> sample_values(data, 0, SpanField(dtype=np.dtype("<u2"), flat=2)).tolist()
    [8, 9]
    """
    size = field.dtype.itemsize
    if field.flat is not None:
        count = (len(data) - field.flat) // size
        ok = sample == 0 and count >= 0
        return data[field.flat : field.flat + count * size].view(field.dtype) if ok else None
    assert field.rows is not None, "samples are records"
    assert field.sizes_C is not None, "samples are records"
    if sample < 0 or field.rows.begins + 4 * sample + 8 > len(data):
        return None
    begin, end = field.rows.span(data, sample)
    variable = int((field.sizes_C < 0).sum())
    if not begin + 4 * variable <= end <= len(data):
        return None
    sizes = data[begin : begin + 4 * variable].view("<u4").tolist()
    at = begin + 4 * variable
    first = last = at
    for c, fixed in enumerate(field.sizes_C.tolist()):
        length = sizes.pop(0) if fixed < 0 else fixed
        if c == field.column:
            first, last = at, at + length
        at += length
    if at != end:
        return None
    if field.shaped:
        if last <= first or data[first] >> 2 != 1:
            return None
        width = 1 << int(data[first] & 3)
        if first + 1 + width > last:
            return None
        count = int.from_bytes(data[first + 1 : first + 1 + width].tobytes(), "little")
        first += 1 + width
        if last - first != count * size:
            return None
    if (last - first) % size:
        return None
    return data[first:last].view(field.dtype)


def gather_spans_reference(
    table: ShardTable, spans: Spans, field: SpanField, out: NDArray[Any], to_B: Int64, pad: int
) -> int:
    """Copy a column of the rows `spans` to `out[to_B]`, [*, L], cast to the dtype of `out`, and fill them with `pad`.

    Returns -1, or the first row that cannot be copied: it has more tokens than L, or a span is not within its sample,
    or its sample is none of the field's. Rows before it have been copied.

    The first two tokens of a shard of bare tokens, then its last:

    >>> table = ShardTable(shards=1)
    >>> table.put(0, np.array([5, 6, 7], dtype="<u2").view(np.uint8))
    >>> spans = Spans(
    ...     begin_B1=np.array([0, 2]), shard_N=np.zeros(2, np.int64), sample_N=np.zeros(2, np.int64),
    ...     start_N=np.array([0, 2]), tokens_N=np.array([2, 1]), joined_N=np.zeros(2, bool))
    >>> out = np.zeros((1, 4), dtype=np.int64)
    >>> gather_spans_reference(table, spans, SpanField(dtype=np.dtype("<u2"), flat=0), out, np.array([0]), pad=9)
    -1
    >>> out.tolist()
    [[5, 6, 7, 9]]
    """
    for i in range(len(to_B)):
        at, target = 0, out[to_B[i]]
        for n in range(int(spans.begin_B1[i]), int(spans.begin_B1[i + 1])):
            start, tokens = int(spans.start_N[n]), int(spans.tokens_N[n])
            data = table.data.get(int(spans.shard_N[n]), np.empty(0, dtype=np.uint8))
            values = sample_values(data, int(spans.sample_N[n]), field)
            if values is None or start < 0 or tokens < 0 or start + tokens > len(values) or at + tokens > len(target):
                return i
            target[at : at + tokens] = values[start : start + tokens]
            at += tokens
        target[at:] = pad
    return -1


def _gather_loop(
    address_S: Any,
    size_S: Any,
    begin_B1: Any,
    shard_N: Any,
    sample_N: Any,
    start_N: Any,
    tokens_N: Any,
    flat: int,
    offsets_at: int,
    sizes_C: Any,
    column: int,
    shaped: bool,
    like: Any,
    pad: Any,
    out: Any,
    to_B: Any,
    at_N: Any,
) -> int:  # pragma: no cover - compiled
    # Samples lie far apart, so each is a miss of the processor's cache. Three short loops let it wait for many at
    # once: where the record begins, where its column does, then the tokens. -1 in `at_N`: the span cannot be read.
    variable = 0
    for c in range(len(sizes_C)):
        variable += sizes_C[c] < 0
    itemsize, spans = like.itemsize, begin_B1[len(begin_B1) - 1]
    for n in range(spans):
        base, size, sample = address_S[shard_N[n]], size_S[shard_N[n]], sample_N[n]
        if flat >= 0:
            at_N[0, n] = flat if sample == 0 and flat <= size else -1
            at_N[1, n] = size
        elif sample < 0 or offsets_at + 4 * sample + 8 > size:
            at_N[0, n] = -1
        else:
            offset = carray(pointer(base + np.uint64(offsets_at + 4 * sample)), (2,), np.uint32)
            begin, end = np.int64(offset[0]), np.int64(offset[1])
            at_N[0, n] = begin if begin + 4 * variable <= end <= size else -1
            at_N[1, n] = end
    for n in range(spans):
        begin, end = at_N[0, n], at_N[1, n]
        if begin < 0:
            continue
        at, length = begin, (end - begin) // itemsize * itemsize
        base = address_S[shard_N[n]]
        if flat < 0:
            sizes = carray(pointer(base + np.uint64(begin)), (variable,), np.uint32)
            last, v = begin + 4 * variable, 0
            for c in range(len(sizes_C)):
                taken = sizes_C[c]
                if taken < 0:
                    taken = np.int64(sizes[v])
                    v += 1
                if c == column:
                    at, length = last, taken
                last += taken
            if last != end:
                length = -1
            elif shaped and length > 0:
                head = carray(pointer(base + np.uint64(at)), (length,), np.uint8)
                width = 1 << (head[0] & 3)
                count = np.uint64(0)
                if head[0] >> 2 == 1 and 1 + width <= length:
                    for h in range(width):
                        count |= np.uint64(head[1 + h]) << np.uint64(8 * h)
                    at, length = at + 1 + width, length - 1 - width
                    length = length if np.uint64(length // itemsize) == count else -1
                else:
                    length = -1
            elif shaped:
                length = -1
            if length % itemsize:
                length = -1
        start, tokens = start_N[n], tokens_N[n]
        inside = start >= 0 and 0 <= tokens <= length // itemsize - start
        at_N[0, n] = at + start * itemsize if inside else -1
    for i in range(len(to_B)):
        target, filled = out[to_B[i]], np.int64(0)
        for n in range(begin_B1[i], begin_B1[i + 1]):
            tokens = tokens_N[n]
            if at_N[0, n] < 0 or tokens < 0 or filled < 0 or filled + tokens > len(target):
                return i  # with both above 0, the loop below is vectorised
            base = address_S[shard_N[n]]
            values = carray(pointer(base + np.uint64(at_N[0, n])), (tokens,), like.dtype)
            for t in range(tokens):
                target[filled + t] = values[t]
            filled += tokens
        for t in range(filled, len(target)):
            target[t] = pad
    return -1


_compiled = compile_loop(_gather_loop)


@beside(gather_spans_reference)
def gather_spans(table: ShardTable, spans: Spans, field: SpanField, out: NDArray[Any], to_B: Int64, pad: int) -> int:
    """Compiled `gather_spans_reference`."""
    stored = field.dtype
    if stored == out.dtype:  # copying bits needs one compiled loop for each size of element
        pad = int(np.array(pad, dtype=stored).view(f"u{stored.itemsize}"))
        stored = np.dtype(f"u{stored.itemsize}")
        out = out.view(stored)
    elif np.float16 in (stored, out.dtype):  # numba has no float16
        return gather_spans_reference(table, spans, field, out, to_B, pad)
    return int(
        _compiled(
            table.address_S,
            table.size_S,
            spans.begin_B1,
            spans.shard_N,
            spans.sample_N,
            spans.start_N,
            spans.tokens_N,
            -1 if field.flat is None else field.flat,
            0 if field.rows is None else field.rows.begins,
            np.empty(0, dtype=np.int64) if field.sizes_C is None else field.sizes_C,
            field.column,
            field.shaped,
            np.empty(0, dtype=stored),
            out.dtype.type(pad),
            out,
            to_B,
            np.empty((2, len(spans.tokens_N)), dtype=np.int64),
        )
    )
