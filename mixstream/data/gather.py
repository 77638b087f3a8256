"""Rows of one fixed-size column, copied from mapped shards into a batch by one call that releases the GIL.

The compiled loop reads memory addresses, so its caller keeps the shards mapped. The numpy reference reads the same
shards as arrays, and the two must return the same. Bounds are checked for every row, although a shard is validated when
it is mapped: if another process overwrites the file, the loop reports an error and reads nothing outside it. (A file
that is truncated while it is mapped raises SIGBUS, as for every mapping.)

Several batches together are written past the processor's caches: they are more than fits, and are read later.

Rows lie by a table of offsets in the shard, or at equal distances (`FixedStride`: flat files of tokens), with one
column and no sizes. Layout of a sample (specs/mds.md section 2): u32 sizes of the variable columns, then the payloads
in column order. A column may begin with a header that is the same in every row (in an `ndarray:DT`, its shape); it is
compared and skipped.

Shape suffixes: B rows, C columns of the record, S shards, N elements of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mixstream.data import gather_loops
from mixstream.data.second_thread import both
from mixstream.formats import FixedStride, GatheredRows, OffsetTable
from mixstream.plan.compiled import beside
from mixstream.records import dataclass
from mixstream.types import Int64, UInt8

if TYPE_CHECKING:
    import torch

_STREAMED = 64  # words of 8 bytes that a row takes in a batch, from which on it is worth it to write past the caches
_WORDS = np.empty(0, dtype=np.int64)
_HALVES = 1 << 21  # bytes from which on a second thread is worth starting


class ShardTable:
    """The raw shards that are mapped, by number, with the memory addresses that the compiled loop reads.

    Attributes:
        data: number -> uint8 [bytes].
        address_S: uint64 [S], address of each shard's first byte.
        size_S: int64 [S], its bytes; 0 for a shard that is not mapped.
    """

    def __init__(self, shards: int) -> None:
        self.data: dict[int, UInt8] = {}
        self.address_S = np.zeros(shards, dtype=np.uint64)
        self.size_S = np.zeros(shards, dtype=np.int64)

    def put(self, shard: int, data: UInt8) -> None:
        """Add a shard, whose bytes must not move until it is dropped."""
        self.data[shard] = data
        self.address_S[shard], self.size_S[shard] = data.ctypes.data, len(data)

    def drop(self, shard: int) -> None:
        """Remove a shard."""
        self.size_S[shard] = 0  # not its address: a loop in another thread may have read the size just now
        self.data.pop(shard, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Where a column lies in its record, and what one row of it is.

    Attributes:
        rows: where records lie in a shard.
        column: its position among the record's columns.
        sizes_C: int64 [C], bytes of each column of the record; -1 where that varies.
        dtype: stored dtype, little-endian.
        elements: elements per row, N.
        header: bytes before the elements, the same in every row.
    """

    rows: GatheredRows
    column: int
    sizes_C: Int64
    dtype: np.dtype[Any]
    elements: int
    header: bytes = b""


def field_span(record: UInt8, field: Field) -> tuple[int, int] | None:
    """Return (begin, end) of `field` in the bytes of one sample; None if its columns do not add up to them."""
    variable = int((field.sizes_C < 0).sum())
    if 4 * variable > len(record):
        return None
    sizes = record[: 4 * variable].view("<u4").tolist()
    begins = [4 * variable]
    for size in field.sizes_C.tolist():
        begins.append(begins[-1] + (sizes.pop(0) if size < 0 else size))
    return (begins[field.column], begins[field.column + 1]) if begins[-1] == len(record) else None


def gather_reference(
    table: ShardTable, shard_B: Int64, row_B: Int64, field: Field, out: NDArray[Any], to_B: Int64
) -> int:
    """Copy `field` of the rows (`shard_B`, `row_B`) to `out[to_B]`, [*, N], cast to the dtype of `out`.

    Returns -1, or the position in `row_B` of the first row that cannot be copied; rows before it have been copied. A
    row cannot be copied if its size or header is not the field's, its columns do not add up to it, its offsets are not
    within its shard, or its shard is not in the table. `formats` refuses the same samples, except for those that only
    have another shape. Rows at equal distances are within their shard, or refused.

    Two samples of one int16 column of two elements; their offsets begin at byte 0 of the shard:

    >>> from mixstream.formats import FixedStride, OffsetTable
    >>> offsets, samples = np.array([12, 16, 20], dtype="<u4"), np.array([1, 2, 3, 4], dtype="<i2")
    >>> table = ShardTable(shards=5)
    >>> table.put(3, np.frombuffer(offsets.tobytes() + samples.tobytes(), dtype=np.uint8))
    >>> field = Field(rows=OffsetTable(begins=0), column=0, sizes_C=np.array([4]), dtype=np.dtype("<i2"), elements=2)
    >>> out = np.zeros((2, 2), dtype=np.int64)
    >>> gather_reference(table, np.array([3, 3]), np.array([1, 0]), field, out, np.array([0, 1])), out.tolist()
    (-1, [[3, 4], [1, 2]])

    The same samples as rows at equal distances, without offsets:

    >>> table.put(4, np.frombuffer(samples.tobytes(), dtype=np.uint8))
    >>> flat = Field(rows=FixedStride(begins=0, stride=4, size=4), column=0, sizes_C=np.array([4]),
    ...     dtype=np.dtype("<i2"), elements=2)
    >>> gather_reference(table, np.array([4, 4]), np.array([1, 0]), flat, out, np.array([1, 0])), out.tolist()
    (-1, [[1, 2], [3, 4]])
    """
    header = np.frombuffer(field.header, dtype=np.uint8)
    nbytes = field.elements * field.dtype.itemsize
    for i, (shard, row) in enumerate(zip(shard_B.tolist(), row_B.tolist())):
        data = table.data.get(shard, header[:0])
        if isinstance(field.rows, OffsetTable) and not 0 <= 4 * row <= len(data) - field.rows.begins - 8:
            return i
        begin, end = field.rows.span(data, row)
        if not 0 <= begin <= end <= len(data):
            return i
        span = field_span(data[begin:end], field)
        if span is None or span[1] - span[0] != len(header) + nbytes:
            return i
        payload = data[begin + span[0] : begin + span[1]]
        if not np.array_equal(payload[: len(header)], header):
            return i
        out[to_B[i]] = payload[len(header) :].view(field.dtype)
    return -1


def gather_by_shard(
    table: ShardTable, shard_B: Int64, row_B: Int64, field: Field, out: NDArray[Any], to_B: Int64
) -> int:
    """Do what `gather_reference` does; samples of one size, side by side, take one copy for each shard."""
    columns = _columns_by_shard(table, shard_B, row_B, field)
    if columns is None:
        return gather_reference(table, shard_B, row_B, field, out, to_B)
    for here_B, column, row_n in columns:
        out[to_B[here_B]] = column[row_n]
    return -1


def _columns_by_shard(
    table: ShardTable, shard_B: Int64, row_B: Int64, field: Field
) -> list[tuple[Int64, NDArray[Any], Int64]] | None:
    """Return, for each shard, which of the rows are its, `field` of its samples, and the rows' places among them.

    None if the samples are not all of one size, or cannot be copied.
    """
    header, size = np.frombuffer(field.header, dtype=np.uint8), int(field.sizes_C.sum())
    at = int(field.sizes_C[: field.column].sum())
    if (
        not size
        or (field.sizes_C < 0).any()
        or field.sizes_C[field.column] != (len(header) + field.elements * field.dtype.itemsize)
    ):
        return None
    found = []
    by_shard = np.argsort(shard_B, kind="stable")
    for here_B in np.split(by_shard, np.flatnonzero(np.diff(shard_B[by_shard])) + 1) if len(by_shard) else ():
        data, row_n = table.data.get(int(shard_B[here_B[0]]), header[:0]), row_B[here_B]
        if isinstance(field.rows, FixedStride):
            begin_n = field.rows.begins + field.rows.stride * row_n
        else:
            offsets = data[field.rows.begins :]
            if row_n.min() < 0 or 4 * int(row_n.max()) + 8 > len(offsets):
                return None
            offset_R = offsets[: 4 * int(row_n.max()) + 8].view("<u4")
            begin_n = offset_R[row_n].astype(np.int64)
            if (offset_R[row_n + 1] != begin_n + size).any():
                return None
        first, last = int(begin_n.min()), int(begin_n.max())
        place_n, apart_n = np.divmod(begin_n - first, size)
        if first < 0 or last + size > len(data) or apart_n.any():
            return None
        sample_NS = data[first : last + size].reshape(-1, size)[:, at : at + int(field.sizes_C[field.column])]
        if len(header) and (sample_NS[place_n, : len(header)] != header).any():
            return None
        found.append((here_B, sample_NS[:, len(header) :].view(field.dtype), place_n))
    return found


def gather_batches_reference(
    table: ShardTable,
    shard_B: Int64,
    row_B: Int64,
    field: Field,
    outs: Sequence[torch.Tensor],
    two_threads: bool = False,
) -> int:
    """Copy `field` of the rows of several batches, all of one size, which stand one after the other, to `outs`.

    Returns -1, or the position in `row_B` of the first row that cannot be copied, as `gather_reference`.

    Args:
        table: the shards that are mapped.
        shard_B: int64 [B], the shard of each row, over all batches.
        row_B: int64 [B], its number there.
        field: the column.
        outs: one contiguous tensor for each batch, [*, ...] of N elements a row, all of one dtype.
        two_threads: whether a second thread copies half of many rows; not here.
    """
    for g, out in enumerate(outs):
        here = slice(g * len(out), (g + 1) * len(out))
        to_B, out_BN = np.arange(len(out), dtype=np.int64), out.numpy().reshape(len(out), field.elements)
        if (bad := gather_by_shard(table, shard_B[here], row_B[here], field, out_BN, to_B)) >= 0:
            return here.start + bad
    return -1


@beside(gather_by_shard)
def gather(table: ShardTable, shard_B: Int64, row_B: Int64, field: Field, out: NDArray[Any], to_B: Int64) -> int:
    """Compiled `gather_reference`."""
    if not (_is_compiled(field.dtype, out.dtype) and out.flags.c_contiguous):
        return gather_reference(table, shard_B, row_B, field, out, to_B)
    begin_G = np.array([out.__array_interface__["data"][0]], dtype=np.uint64)
    return _gather(table, shard_B, row_B, field, out, begin_G, to_B, streams=False)


@beside(gather_batches_reference)
def gather_batches(
    table: ShardTable,
    shard_B: Int64,
    row_B: Int64,
    field: Field,
    outs: Sequence[torch.Tensor],
    two_threads: bool = False,
) -> int:
    """Compiled `gather_batches_reference`."""
    first = outs[0].numpy()
    if not _is_compiled(field.dtype, first.dtype):
        return gather_batches_reference(table, shard_B, row_B, field, outs)
    shape, dtype = outs[0].shape, outs[0].dtype
    if any([out.shape != shape or out.dtype != dtype or not out.is_contiguous() for out in outs]):  # noqa: C419 - quicker
        raise ValueError("batches that are gathered together have one shape and dtype, and are contiguous")
    if len(row_B) != len(outs) * len(first):
        raise ValueError(f"{len(row_B)} rows do not fill {len(outs)} batches of {len(first)}")
    begin_G, to_R = np.array([out.data_ptr() for out in outs], dtype=np.uint64), np.arange(len(first))
    return _gather(table, shard_B, row_B, field, first, begin_G, to_R, streams=True, two_threads=two_threads)


def _is_compiled(stored: np.dtype[Any], made: np.dtype[Any]) -> bool:
    return stored == made or np.float16 not in (stored, made)  # numba has no float16


def _gather(
    table: ShardTable,
    shard_B: Int64,
    row_B: Int64,
    field: Field,
    like: NDArray[Any],
    begin_G: NDArray[np.uint64],
    to_R: Int64,
    *,
    streams: bool,
    two_threads: bool = False,
) -> int:
    """Copy R rows to each of the arrays that begin at `begin_G`, to its rows `to_R`; return as `gather_reference`.

    All are contiguous, and of the shape [*, ...] and the dtype of `like`. With `streams`, larger rows are written past
    the caches, for a reader that comes later and in another thread.
    """
    made, nbytes = like.dtype, field.elements * field.dtype.itemsize
    source_B, target_B = np.empty((2, len(row_B)), dtype=np.uint64)
    bad = int(
        gather_loops.find_rows(
            table.address_S,
            table.size_S,
            shard_B,
            row_B,
            field.rows.begins,
            field.rows.stride if isinstance(field.rows, FixedStride) else 0,
            field.sizes_C,
            field.column,
            np.frombuffer(field.header, dtype=np.uint8),
            nbytes,
            begin_G,
            to_R,
            like.strides[0],
            source_B,
            target_B,
        )
    )
    if bad >= 0:
        source_B, target_B = source_B[:bad], target_B[:bad]
    copy = _copy_of(field, made, nbytes, streams=streams)
    if two_threads and len(source_B) * field.elements * made.itemsize >= _HALVES:
        both(lambda part: copy(source_B[part], target_B[part]), len(source_B))
    else:
        copy(source_B, target_B)
    return bad


def _copy_of(
    field: Field, made: np.dtype[Any], nbytes: int, *, streams: bool
) -> Callable[[NDArray[np.uint64], NDArray[np.uint64]], None]:
    """Return what copies rows from addresses to addresses."""
    if streams and field.dtype == made and nbytes >= 8 * _STREAMED:
        return lambda source_B, target_B: gather_loops.stream_bytes(source_B, target_B, nbytes, _WORDS)
    if field.dtype == made:
        return lambda source_B, target_B: gather_loops.copy_rows(source_B, target_B, nbytes)
    stored = np.empty(0, dtype=field.dtype)
    if streams and field.elements >= _STREAMED and made == np.int64 and field.dtype.kind in "iu":
        return lambda source_B, target_B: gather_loops.stream_rows(source_B, target_B, field.elements, stored)
    like = np.empty(0, dtype=made)
    return lambda source_B, target_B: gather_loops.cast_rows(source_B, target_B, field.elements, stored, like)
