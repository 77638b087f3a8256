"""A column of lists in the batches of an Arrow file or stream: where its buffers lie, and what is in them.

Rules. Only the buffers of the column are read, whatever else a batch has. Nothing that the bytes say is believed
unchecked: each buffer lies in its batch and is as large as its lists need.

A batch has, for each array in the order of the schema, a node (length, nulls) and its buffers: a list has validity and
offsets (none, if all lists have a fixed length), and then come the validity and the values of its integers
(https://arrow.apache.org/docs/format/Columnar.html#recordbatch-message).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from mixstream.errors import ConfigError
from mixstream.formats.columns.arrow_messages import (
    FILE_MAGIC,
    Batch,
    BatchFields,
    Layout,
    fields_of,
    is_little_endian,
    layout_of,
)
from mixstream.formats.columns.lists import Bools, Lists, bits_of, refuse
from mixstream.formats.columns.schema import ListColumn
from mixstream.records import dataclass
from mixstream.types import UInt8

if TYPE_CHECKING:
    import pyarrow as pa

_WINDOW = 1 << 16  # bytes of a file that are read at a time: the metadata of a batch, and positions behind it
_SLACK = 4096  # bytes that writers may leave behind the values of a buffer


class Place(NamedTuple):
    """Where the arrays of a column stand in each batch: nodes, buffers and arrays of views before them."""

    nodes: int
    buffers: int
    views: int


class Extent(NamedTuple):
    """A buffer: its bytes [begin, begin + size) of the file."""

    begin: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListBuffers:
    """The buffers of a column of lists in one batch.

    Attributes:
        column: its type.
        lists: number of lists.
        values: number of values.
        valid: bitmap of the lists that are not null; None if none is null.
        offsets: positions of the lists; None if all have the column's length.
        values_valid: as `valid`, of the values.
        data: the values.
        codec: how buffers are compressed; None if they are not.
        where: names file and batch in errors.
    """

    column: ListColumn
    lists: int
    values: int
    valid: Extent | None
    offsets: Extent | None
    values_valid: Extent | None
    data: Extent
    codec: str | None
    where: str

    def read_lists(self, stream: BinaryIO) -> Lists:
        """Return where the lists lie in the values; the values are not read.

        Raises:
            ShardCorruptError: a buffer is damaged.
        """
        return Lists(
            offset_N=self._offsets(stream),
            valid_N=self._bits(stream, self.valid, self.lists),
            values=self.values,
            nulls_V=None if (bits := self._bits(stream, self.values_valid, self.values)) is None else ~bits,
        )

    def read_values(self, stream: BinaryIO, begin: int, end: int) -> UInt8:
        """Return the bytes of the values [begin, end), uint8; all are read if they are compressed."""
        size = np.dtype(self.column.dtype).itemsize
        if self.codec is None:
            data = read_exactly(stream, self.data.begin + begin * size, (end - begin) * size, where=self.where)
            return np.frombuffer(data, np.uint8)
        return self._buffer(stream, self.data, self.values * size)[begin * size : end * size]

    def _offsets(self, stream: BinaryIO) -> np.ndarray:
        if self.offsets is None:
            return np.arange(self.lists + 1, dtype=np.int64) * (self.column.length or 0)
        if not self.lists:
            return np.zeros(1, dtype=np.int64)
        dtype = np.dtype("<i8" if self.column.wide else "<i4")
        raw = self._buffer(stream, self.offsets, (self.lists + 1) * dtype.itemsize)
        return raw.view(dtype).astype(np.int64)

    def _bits(self, stream: BinaryIO, extent: Extent | None, count: int) -> Bools | None:
        if extent is None:
            return None
        return bits_of(self._buffer(stream, extent, -(-count // 8)), 0, count)

    def _buffer(self, stream: BinaryIO, extent: Extent, size: int) -> UInt8:
        """Return the first `size` bytes of a buffer, decompressed."""
        if self.codec is None:
            return np.frombuffer(read_exactly(stream, extent.begin, size, where=self.where), np.uint8)
        if not size:
            return np.empty(0, dtype=np.uint8)
        if extent.size < 8:
            refuse(self.where, f"a compressed buffer of {extent.size} bytes, where its lists need {size}")
        raw = read_exactly(stream, extent.begin, extent.size, where=self.where)
        (stored,) = struct.unpack_from("<q", raw)
        plain = len(raw) - 8 if stored == -1 else stored
        if not size <= plain <= 2 * size + _SLACK:
            refuse(self.where, f"a buffer of {plain} bytes decompressed, where its lists need {size}")
        return np.frombuffer(raw[8:] if stored == -1 else _decompressed(raw, plain, self.codec, self.where), np.uint8)[
            :size
        ]


@contextmanager
def buffered(file: BinaryIO) -> Iterator[BinaryIO]:
    """Give a file of which small reads cost no request each, and which stays open."""
    if not isinstance(file, io.RawIOBase):
        yield file
        return
    stream = io.BufferedReader(file, _WINDOW)
    try:
        yield stream
    finally:
        stream.detach()  # else it would close the file


def read_layout(stream: BinaryIO, size: int, *, where: str) -> tuple[Layout, pa.Schema]:
    """Return where the batches of a file lie, and its schema; `where` names the file in errors.

    Raises:
        ShardCorruptError: it is cut short or damaged, or is no Arrow file.
        ConfigError: its values are big-endian.
    """
    import pyarrow as pa

    try:
        layout = layout_of(stream, size, measure=False)
        if layout.damage is not None:
            refuse(where, f"the Arrow data is damaged or cut short: {layout.damage[1]}")
        message = layout.schema
        if not message:
            if not layout.others:
                refuse(where, "it has no schema, so it is no Arrow stream")
            begin, end = layout.others[0]
            message = read_exactly(stream, begin, end - begin, where=where)
        schema = pa.ipc.read_schema(pa.BufferReader(message))
        _ = schema.names  # each is decoded
        is_little = is_little_endian(message)
    except (ValueError, pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        refuse(where, f"the Arrow data is damaged or cut short: {str(error).splitlines()[0][:300]}", error)
    if not is_little:
        raise ConfigError(
            f"{where}: its values are big-endian, which mixstream does not read; write the file again here"
        )
    return layout, schema


def read_schema(stream: BinaryIO, *, where: str) -> pa.Schema:
    """Return the schema of a file or stream, without a look at its batches.

    Raises:
        ShardCorruptError: it is damaged.
    """
    import pyarrow as pa

    is_file = read_exactly(stream, 0, len(FILE_MAGIC), where=where) == FILE_MAGIC
    stream.seek(0)
    try:
        return (pa.ipc.open_file if is_file else pa.ipc.open_stream)(pa.PythonFile(stream, mode="r")).schema
    except pa.ArrowException as error:
        refuse(where, f"the Arrow data is damaged or cut short: {error}", error)


def place_in(schema: pa.Schema, column: ListColumn, *, where: str) -> Place:
    """Return where the arrays of a column stand in each batch.

    >>> import pyarrow as pa
    >>> schema = pa.schema({"text": pa.string(), "tokens": pa.list_(pa.uint16())})
    >>> place_in(schema, ListColumn("tokens", 1, "uint16", None, False), where="a.arrow")
    Place(nodes=1, buffers=3, views=0)

    Raises:
        ConfigError: a column before it is of a type whose buffers are not known.
    """
    at = Place(0, 0, 0)
    for field in list(schema)[: column.number]:
        taken = _taken(field.type)
        if taken is None:
            raise ConfigError(
                f"{where}: column {field.name!r}, before {column.name!r}, is of type {field.type}, whose buffers "
                f"mixstream cannot skip: write the file again with {column.name!r} alone"
            )
        at = Place(*(mine + more for mine, more in zip(at, taken)))
    return at


def list_buffers(stream: BinaryIO, batch: Batch, column: ListColumn, place: Place, *, where: str) -> ListBuffers:
    """Return where the buffers of a column lie; `where` names the file and the batch in errors.

    Raises:
        ShardCorruptError: the batch is damaged.
    """
    try:
        fields = fields_of(stream, batch)
        taken = iter(range(place.buffers + sum(fields.views[: place.views]), 1 << 62))
        (lists, nulls), (values, value_nulls) = (_node(fields, place.nodes + n) for n in range(2))
        valid = _extent(fields, next(taken), batch)
        offsets = _extent(fields, next(taken), batch) if column.length is None else None
        values_valid, data = (_extent(fields, next(taken), batch) for _ in range(2))
    except (ValueError, IndexError, AssertionError, struct.error) as error:
        refuse(where, f"the Arrow data is damaged: {error}", error)
    found = ListBuffers(
        column=column,
        lists=lists,
        values=values,
        valid=valid if nulls and valid.size else None,
        offsets=offsets,
        values_valid=values_valid if value_nulls and values_valid.size else None,
        data=data,
        codec=None if fields.compression is None else fields.compression.codec,
        where=where,
    )
    if lists != batch.rows or values < 0:
        refuse(where, f"a batch of {batch.rows} rows has {lists} lists and {values} values")
    if column.length is not None and values < lists * column.length:
        refuse(where, f"{lists} lists of {column.length} have {values} values")
    if found.codec is None:
        width = 8 if column.wide else 4
        for extent, need in (
            (found.valid, -(-lists // 8)),
            (found.offsets, (lists + 1) * width if lists else 0),
            (found.values_valid, -(-values // 8)),
            (data, values * np.dtype(column.dtype).itemsize),
        ):
            if extent is not None and extent.size < need:
                refuse(where, f"a buffer of {extent.size} bytes, where {lists} lists of {values} values need {need}")
    return found


def read_exactly(stream: BinaryIO, begin: int, size: int, *, where: str) -> bytes:
    """Return `size` bytes of a file; raise ShardCorruptError if it ends before."""
    stream.seek(begin)
    parts, left = [], size
    while left and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    if left:
        refuse(where, f"it ends {left} bytes before byte {begin + size}: it is cut short")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _node(fields: BatchFields, number: int) -> tuple[int, int]:
    length, nulls = struct.unpack_from("<qq", fields.metadata, fields.nodes[number])
    return length, nulls


def _extent(fields: BatchFields, number: int, batch: Batch) -> Extent:
    offset, size = struct.unpack_from("<qq", fields.metadata, fields.buffers[number])
    begin = fields.body + offset
    if offset < 0 or size < 0 or begin + size > batch.end:
        raise ValueError(f"buffer {number} lies outside of its batch")
    return Extent(begin, size)


def _decompressed(raw: bytes, size: int, codec: str, where: str) -> bytes:
    import pyarrow as pa

    try:
        return pa.decompress(memoryview(raw)[8:], decompressed_size=size, codec=codec, asbytes=True)
    except (pa.ArrowException, OSError) as error:
        refuse(where, f"a buffer cannot be decompressed: {error}", error)


def _taken(kind: pa.DataType) -> Place | None:
    """Return how many nodes, buffers and arrays of views an array of a type has in a batch; None if not known."""
    import pyarrow as pa

    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _taken(kind.storage_type)
    if types.is_union(kind) or types.is_run_end_encoded(kind):
        return None
    if types.is_null(kind) or types.is_string_view(kind) or types.is_binary_view(kind):
        return Place(1, 0, 0) if types.is_null(kind) else Place(1, 2, 1)
    if types.is_dictionary(kind) or not kind.num_fields:
        has_offsets = types.is_string(kind) or types.is_binary(kind)
        has_offsets |= types.is_large_string(kind) or types.is_large_binary(kind)
        return Place(1, 3 if has_offsets else 2, 0)
    own = 1 if types.is_struct(kind) or types.is_fixed_size_list(kind) else 2
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        own = 3
    at = Place(1, own, 0)
    for number in range(kind.num_fields):
        if (taken := _taken(kind.field(number).type)) is None:
            return None
        at = Place(*(mine + more for mine, more in zip(at, taken)))
    return at
