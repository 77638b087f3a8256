"""Rows of one fixed-size column, copied from mapped shards into a batch by one call that releases the GIL.

The compiled loop reads memory addresses, so its caller keeps the shards mapped. The numpy reference reads the same
shards as arrays, and the two must return the same. Bounds are checked for every row, although a shard is validated when
it is mapped: if another process overwrites the file, the loop reports an error and reads nothing outside it. (A file
that is truncated while it is mapped raises SIGBUS, as for every mapping.)

Rows lie by a table of offsets in the shard, or at equal distances (`FixedStride`: flat files of tokens), with one
column and no sizes. Layout of a sample (specs/mds.md section 2): u32 sizes of the variable columns, then the payloads
in column order. A column may begin with a header that is the same in every row (in an `ndarray:DT`, its shape); it is
compared and skipped.

Shape suffixes: B rows, C columns of the record, S shards, N elements of a row.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.formats import FixedStride, GatheredRows, OffsetTable
from mixstream.plan.kernels import compile_loop, numba
from mixstream.types import Int64, UInt8


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
        self.address_S[shard] = self.size_S[shard] = 0
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
        if isinstance(field.rows, OffsetTable) and field.rows.begins + 4 * row + 8 > len(data):
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


if numba is not None:
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    @intrinsic
    def _pointer(typing_context: Any, address: Any) -> Any:  # pragma: no cover - compiled
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], cgutils.voidptr_t)

        return types.voidptr(address), generate  # signature, code generator

    pointer: Any = _pointer
    carray: Any = vars(numba)["carray"]

    def _gather_loop(
        address_S: Any,
        size_S: Any,
        shard_B: Any,
        row_B: Any,
        rows_at: int,
        stride: int,
        sizes_C: Any,
        column: int,
        header: Any,
        like: Any,
        elements: int,
        out: Any,
        to_B: Any,
    ) -> int:  # pragma: no cover - compiled
        variable = 0
        for c in range(len(sizes_C)):
            variable += sizes_C[c] < 0
        nbytes = elements * like.itemsize
        for i in range(len(row_B)):
            base, size, row = address_S[shard_B[i]], size_S[shard_B[i]], row_B[i]
            if stride > 0:
                begin = rows_at + stride * row
                end = begin + sizes_C[0]
            else:
                if rows_at + 4 * row + 8 > size:
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
            values = carray(pointer(base + np.uint64(at + len(header))), (elements,), like.dtype)
            target = out[to_B[i]]
            for n in range(elements):
                target[n] = values[n]
        return -1

    _compiled = compile_loop(_gather_loop)

    def gather(table: ShardTable, shard_B: Int64, row_B: Int64, field: Field, out: NDArray[Any], to_B: Int64) -> int:
        """Compiled `gather_reference`."""
        stored = field.dtype
        if stored == out.dtype:  # copying bits needs one compiled loop for each size of element
            stored = np.dtype(f"u{stored.itemsize}")
            out = out.view(stored)
        elif np.float16 in (stored, out.dtype):  # numba has no float16
            return gather_reference(table, shard_B, row_B, field, out, to_B)
        return int(
            _compiled(
                table.address_S,
                table.size_S,
                shard_B,
                row_B,
                field.rows.begins,
                field.rows.stride if isinstance(field.rows, FixedStride) else 0,
                field.sizes_C,
                field.column,
                np.frombuffer(field.header, dtype=np.uint8),
                np.empty(0, dtype=stored),
                field.elements,
                out,
                to_B,
            )
        )

else:
    gather = gather_reference
