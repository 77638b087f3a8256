"""The compiled loops of `gather`: where rows lie, and copying them. They read and write memory by its address.

Rule: `find_rows` checks everything that a shard says, for every row; the others copy what it has found, and check
nothing. Who calls them keeps the shards mapped and the batches allocated.

Shape suffixes: B rows, C columns of the record, G batches of R rows, S shards.
"""

from typing import Any

import numpy as np

from mixstream.data.loop_memory import carray, fence, memcpy, pointer, prefetch, streamed
from mixstream.plan.compiled import compile_loop

_OFFSETS_AHEAD = 16  # rows whose offsets are prefetched
_AHEAD, _LINES = 2, 4  # rows ahead of the one that is copied, and lines of 64 bytes of them, that are prefetched


@compile_loop
def find_rows(
    address_S: Any,
    size_S: Any,
    shard_B: Any,
    row_B: Any,
    rows_at: int,
    stride: int,
    sizes_C: Any,
    column: int,
    header: Any,
    nbytes: int,
    begin_G: Any,
    to_R: Any,
    row_bytes: int,
    source_B: Any,
    target_B: Any,
) -> int:  # pragma: no cover - compiled
    """Set where rows lie, and where they are to be: row `to_R[i % R]` of batch i // R. Return as `gather_reference`."""
    variable = 0
    for c in range(len(sizes_C)):
        variable += sizes_C[c] < 0
    for i in range(len(row_B)):
        base, size, row = address_S[shard_B[i]], size_S[shard_B[i]], row_B[i]
        if stride > 0:
            begin = rows_at + stride * row
            end = begin + sizes_C[0]
        else:
            ahead = min(i + _OFFSETS_AHEAD, len(row_B) - 1)  # prefetching from any address is harmless
            prefetch(address_S[shard_B[ahead]] + np.uint64(rows_at + 4 * row_B[ahead]))
            if row < 0 or rows_at + 4 * row + 8 > size:
                return i
            offset = carray(pointer(base + np.uint64(rows_at + 4 * row)), (2,), np.uint32)
            begin, end = np.int64(offset[0]), np.int64(offset[1])
        if begin < 0 or begin > end or end > size or begin + 4 * variable > end:
            return i
        sizes = carray(pointer(base + np.uint64(begin)), (variable,), np.uint32)
        last, at, length, v = begin + 4 * variable, np.int64(0), np.int64(0), 0
        for c in range(len(sizes_C)):
            taken = sizes_C[c]
            if taken < 0:
                taken = np.int64(sizes[v])
                v += 1
            if c == column:
                at, length = last, taken
            last += taken
        if last != end or length != len(header) + nbytes:
            return i
        payload = carray(pointer(base + np.uint64(at)), (length,), np.uint8)
        for h in range(len(header)):
            if payload[h] != header[h]:
                return i
        source_B[i] = base + np.uint64(at + len(header))
        target_B[i] = begin_G[i // len(to_R)] + np.uint64(row_bytes * to_R[i % len(to_R)])
    return -1


@compile_loop
def copy_rows(source_B: Any, target_B: Any, nbytes: int) -> None:  # pragma: no cover - compiled
    """Copy rows of any dtype."""
    last = len(source_B) - 1
    for i in range(len(source_B)):
        ahead = source_B[min(i + _AHEAD, last)]
        for line in range(min(_LINES, nbytes >> 6)):
            prefetch(ahead + np.uint64(64 * line))
        memcpy(target_B[i], source_B[i], nbytes)


@compile_loop
def cast_rows(
    source_B: Any, target_B: Any, elements: int, stored: Any, made: Any
) -> None:  # pragma: no cover - compiled
    """Copy rows, and cast each element; compiled for each pair of dtypes."""
    last = len(source_B) - 1
    for i in range(len(source_B)):
        ahead = source_B[min(i + _AHEAD, last)]
        for line in range(min(_LINES, (elements * stored.itemsize) >> 6)):
            prefetch(ahead + np.uint64(64 * line))
        values = carray(pointer(source_B[i]), (elements,), stored.dtype)
        target = carray(pointer(target_B[i]), (elements,), made.dtype)
        for n in range(elements):
            target[n] = values[n]


@compile_loop
def stream_bytes(source_B: Any, target_B: Any, nbytes: int, words: Any) -> None:  # pragma: no cover - compiled
    """Copy rows of any dtype past the caches, as `stream_rows` does; `words` is an array of int64."""
    last, line = len(source_B) - 1, np.uint64(64)
    for i in range(len(source_B)):
        source, to, ahead = source_B[i], target_B[i], source_B[min(i + _AHEAD, last)]
        for at in range(min(_LINES, nbytes >> 6)):
            prefetch(ahead + np.uint64(64 * at))
        begin = min(np.int64((line - to % line) % line), nbytes)  # of the first whole line
        end = begin + (nbytes - begin) // 64 * 64
        if begin:
            memcpy(to, source, begin)
        for at in range(begin, end, 64):
            streamed(to + np.uint64(at), source + np.uint64(at), words)
        if end < nbytes:
            memcpy(to + np.uint64(end), source + np.uint64(end), nbytes - end)
    fence()


@compile_loop
def stream_rows(source_B: Any, target_B: Any, elements: int, stored: Any) -> None:  # pragma: no cover - compiled
    """Copy rows of integers to int64, past the caches; compiled for each dtype of integers.

    Batches that are made ahead are larger than the caches. Past these, a store does not read the line that it writes,
    and what is in them stays: shards' offsets, and the interpreter.
    """
    last, line, size = len(source_B) - 1, np.uint64(64), np.uint64(stored.itemsize)
    for i in range(len(source_B)):
        source, to, ahead = source_B[i], target_B[i], source_B[min(i + _AHEAD, last)]
        for at in range(min(_LINES, (elements * stored.itemsize) >> 6)):
            prefetch(ahead + np.uint64(64 * at))
        values = carray(pointer(source), (elements,), stored.dtype)
        target = carray(pointer(to), (elements,), np.int64)
        begin = min(np.int64((line - to % line) % line) >> 3, elements)  # of the first whole line
        begin = elements if to % np.uint64(8) else begin  # no whole line begins with an element
        end = begin + (elements - begin) // 8 * 8
        for n in range(begin):
            target[n] = values[n]
        for n in range(begin, end, 8):
            streamed(to + np.uint64(8 * n), source + np.uint64(n) * size, stored)
        for n in range(end, elements):
            target[n] = values[n]
    fence()
