"""Where the batches of an Arrow file or stream lie, and how many rows each has, without reading them.

pyarrow tells neither, so the few fields that are needed are read here: of the messages of a stream, and of the footer
of a file (https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc).

Rule. Nothing that the bytes say is believed unchecked: every place is compared with the size of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from mixstream.records import dataclass

FILE_MAGIC, CONTINUED = b"ARROW1", b"\xff\xff\xff\xff"
_SCHEMA, _DICTIONARY, _RECORDS = 1, 2, 3  # kinds of messages
_CODECS = {0: "lz4", 1: "zstd"}
_MOST_METADATA = 256 << 20
_BLOCK_SIZE = 24  # bytes of an entry of the footer


class Batch(NamedTuple):
    """A record batch: its message is the bytes `begin` to `end`."""

    begin: int
    end: int
    rows: int
    unpacked: int
    """Bytes that it takes decompressed; 0 if it is not compressed, or was not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The batches of a file or stream in order, and its other messages.

    Attributes:
        batches: all that are whole.
        others: begin and end of the messages that its batches need: of a stream its schema, then dictionaries.
        schema: of a file, the message with its schema; empty for a stream.
        damage: where a stream is damaged, and how; None if it is not.
    """

    batches: tuple[Batch, ...]
    others: tuple[tuple[int, int], ...]
    schema: bytes = b""
    damage: tuple[int, str] | None = None

    def stream_of(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """The bytes that are, after `schema`, a stream of some of the batches."""
        batches = [(self.batches[at].begin, self.batches[at].end) for at in numbers]
        if self.schema:
            return [*self.others, *batches]
        last = batches[-1][0] if batches else 0
        return sorted([*(each for each in self.others if each[0] <= last), *batches])


def layout_of(stream: BinaryIO, size: int, *, measure: bool = True) -> Layout:
    """Return where the batches of an Arrow file or stream lie; raises ValueError for a file without a sound footer.

    Args:
        stream: the file.
        size: its bytes.
        measure: whether to read how large compressed batches are, which costs a look at each of their buffers.
    """
    stream.seek(0)
    if stream.read(len(FILE_MAGIC)) == FILE_MAGIC:
        return _of_file(stream, size, measure)
    batches: list[Batch] = []
    others: list[tuple[int, int]] = []
    at, damage = 0, None
    try:
        while (message := _message(stream, at, size, measure)) is not None:
            at = message.batch.end
            if message.kind == _RECORDS:
                batches.append(message.batch)
            else:
                others.append((message.batch.begin, at))
        if at + 8 < size:
            raise ValueError(f"{size - at - 8} bytes follow behind the end of the stream")
    except ValueError as error:
        damage = (min(at, size - 1), str(error))
    return Layout(batches=tuple(batches), others=tuple(others), damage=damage)


def _of_file(stream: BinaryIO, size: int, measure: bool) -> Layout:
    """What a footer lists."""
    tail = len(FILE_MAGIC) + 4
    stream.seek(max(size - tail, 0))
    end = stream.read(tail)
    if len(end) < tail or end[4:] != FILE_MAGIC:
        raise ValueError("it has no footer, so it is cut short, or its writer did not close it")
    length = _int(end, 0, "<i")
    if not 0 < length <= min(size - tail, _MOST_METADATA):
        raise ValueError(f"its footer would have {length} bytes")
    stream.seek(size - tail - length)
    data = stream.read(length)
    root = _int(data, 0, "<I")
    dictionaries, batches = (
        [_listed(stream, _int(data, at, "<q"), size, kind, measure) for at in _vector(data, root, field, _BLOCK_SIZE)]
        for field, kind in ((2, _DICTIONARY), (3, _RECORDS))
    )
    return Layout(
        batches=tuple(batches),
        others=tuple((each.begin, each.end) for each in dictionaries),
        schema=_schema_message(data, root),
    )


def _schema_message(footer: bytes, root: int) -> bytes:
    """The schema of a footer as the message that begins a stream: a table that points into the footer.

    The message at the beginning of a file is not used: some writers leave its length out.
    """
    version = _value(footer, root, 0, "<h")
    schema = _table(footer, root, 1)
    entries = struct.pack("<HHHHHxx", 10, 12, 4, 6, 8)  # sizes; where version, kind and header lie in the table
    table = struct.pack("<ihBxIxxxx", 12, version, _SCHEMA, 8 + schema)
    message = struct.pack("<I", 16) + entries + table + footer
    message += bytes(-len(message) % 8)
    return CONTINUED + struct.pack("<i", len(message)) + message


def _listed(stream: BinaryIO, begin: int, size: int, kind: int, measure: bool) -> Batch:
    """A message that has to begin at a byte."""
    message = _message(stream, begin, size, measure) if 0 < begin < size else None
    if message is None or message.kind != kind:
        raise ValueError(f"its footer names byte {begin}, where no message of that kind begins")
    return message.batch


class _Message(NamedTuple):
    kind: int
    batch: Batch
    """Its place; without rows, if it is no batch."""


def _message(stream: BinaryIO, at: int, size: int, measure: bool) -> _Message | None:
    """The message at byte `at`; None at the end of the stream."""
    stream.seek(at)
    head = stream.read(8)
    if len(head) < 8 and head != b"\0\0\0\0":
        raise ValueError(f"it ends at byte {at} without the mark of an end, so it may be cut short")
    continued = head[:4] == CONTINUED
    length = _int(head, 4 if continued else 0, "<i")  # without a mark before it, up to Arrow 0.14
    begin = at + (8 if continued else 4)
    if not length:
        return None
    if not 0 < length <= min(size - begin, _MOST_METADATA):
        raise ValueError(f"the message at byte {at} would have {length} bytes of metadata, and {size - begin} follow")
    stream.seek(begin)
    data = stream.read(length)
    root = _int(data, 0, "<I")
    kind = _value(data, root, 1, "<B")
    body = _value(data, root, 3, "<q")
    end = begin + length + body
    if body < 0 or end > size:
        raise ValueError(f"the message at byte {at} ends at byte {end}, and the file at {size}")
    rows = unpacked = 0
    if kind == _RECORDS:
        header = _table(data, root, 2)
        rows = _value(data, header, 0, "<q")
        if rows < 0:
            raise ValueError(f"the batch at byte {at} would have {rows} rows")
        if measure and _field(data, header, 3) is not None:
            unpacked = _unpacked(stream, data, header, begin + length, body)
    return _Message(kind, Batch(at, end, rows, unpacked))


def _unpacked(stream: BinaryIO, data: bytes, header: int, begin: int, body: int) -> int:
    """The size of a compressed batch in memory: each of its buffers begins with its own."""
    total = 0
    for at in _vector(data, header, 2, 16):
        offset, length = struct.unpack_from("<qq", data, at)
        if length < 8:
            continue
        if not 0 <= offset <= body - length:
            raise ValueError(f"a buffer of the batch at byte {begin} lies outside of it")
        stream.seek(begin + offset)
        size = _int(stream.read(8), 0, "<q")
        total += length if size < 0 else size  # -1: this buffer is as it is
    return total


def is_little_endian(schema: bytes) -> bool:
    """Return whether a message with a schema says that values are little-endian."""
    begin = 8 if schema[:4] == CONTINUED else 4
    data = schema[begin:]
    return not _value(data, _table(data, _int(data, 0, "<I"), 2), 0, "<h")


class Compression(NamedTuple):
    """How a batch is compressed."""

    codec: str
    slot: int
    """Where the metadata says that it is."""


class BatchFields(NamedTuple):
    """What the metadata of a batch says; places are bytes of the metadata."""

    metadata: bytes
    body: int
    """Byte of the file where its body begins."""
    body_length: int
    """Place of its length."""
    buffers: list[int]
    """Places of offset and length of each buffer."""
    nodes: list[int]
    """Places of length and number of nulls of each array."""
    views: list[int]
    """How many buffers each array of views has beyond its two."""
    compression: Compression | None


def fields_of(stream: BinaryIO, batch: Batch) -> BatchFields:
    """Return what the metadata of a batch says; it was checked when the batch was found."""
    stream.seek(batch.begin)
    head = stream.read(8)
    continued = head[:4] == CONTINUED
    begin, length = batch.begin + (8 if continued else 4), _int(head, 4 if continued else 0, "<i")
    stream.seek(begin)
    data = stream.read(length)
    root = _int(data, 0, "<I")
    header, body_length = _table(data, root, 2), _field(data, root, 3)
    assert body_length is not None
    compression = None
    if _field(data, header, 3) is not None:
        codec = _value(data, _table(data, header, 3), 0, "<b")
        if codec not in _CODECS:
            raise ValueError(f"a compression of number {codec}, which is not known")
        compression = Compression(_CODECS[codec], header - _int(data, header, "<i") + 4 + 2 * 3)
    return BatchFields(
        metadata=data,
        body=begin + length,
        body_length=body_length,
        buffers=list(_vector(data, header, 2, 16)),
        nodes=list(_vector(data, header, 1, 16)),
        views=[_int(data, at, "<q") for at in _vector(data, header, 4, 8)],
        compression=compression,
    )


# -- flatbuffers ---------------------------------------------------------------------------------------------------


def _int(data: bytes, at: int, kind: str) -> Any:
    if not 0 <= at <= len(data) - struct.calcsize(kind):
        raise ValueError(f"it points at byte {at} of a message of {len(data)} bytes")
    return struct.unpack_from(kind, data, at)[0]


def _field(data: bytes, table: int, number: int) -> int | None:
    """Where a field of a table lies; None if it is not there."""
    entries = table - _int(data, table, "<i")
    slot = 4 + 2 * number
    offset = _int(data, entries + slot, "<H") if slot + 2 <= _int(data, entries, "<H") else 0
    return table + offset if offset else None


def _value(data: bytes, table: int, number: int, kind: str) -> Any:
    at = _field(data, table, number)
    return 0 if at is None else _int(data, at, kind)


def _table(data: bytes, table: int, number: int) -> int:
    at = _field(data, table, number)
    if at is None:
        raise ValueError("a header is not there")
    return at + _int(data, at, "<I")


def _vector(data: bytes, table: int, number: int, size: int) -> Iterator[int]:
    """Where the entries of a list lie, of `size` bytes each."""
    at = _field(data, table, number)
    if at is None:
        return
    at += _int(data, at, "<I")
    count = _int(data, at, "<I")
    if at + 4 + count * size > len(data):
        raise ValueError(f"a list of {count} entries does not fit into {len(data)} bytes")
    yield from range(at + 4, at + 4 + count * size, size)
