"""A compressed batch of Arrow, decompressed into a file on disk, so that it can be mapped instead of held in memory.

The message stays as it is, but for the places of its buffers and for what says that they are compressed.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple

from mixstream.formats.columns import CONTINUED, Batch, BatchFields, fields_of

from .arrow_bytes import ArrowBytes, Range

_BLOCK = 1 << 20
_MOST = 1 << 50
_ALIGNED = 64  # bytes


class _Buffer(NamedTuple):
    at: int
    """Where the metadata says its place."""
    begin: int
    end: int
    size: int
    """Decompressed."""
    is_plain: bool
    """Whether it is stored as it is."""


def unpack(stream: BinaryIO, batch: Batch, out: BinaryIO) -> int:
    """Write a batch decompressed to the beginning of `out`; returns the number of bytes.

    Raises ValueError if a buffer is not as large as it says.
    """
    fields = fields_of(stream, batch)
    assert fields.compression is not None
    buffers = [_described(stream, fields, at) for at in fields.buffers]
    metadata = bytearray(fields.metadata)
    struct.pack_into("<H", metadata, fields.compression.slot, 0)
    body = 0
    for each in buffers:
        struct.pack_into("<qq", metadata, each.at, body, each.size)
        body += each.size + -each.size % _ALIGNED
    struct.pack_into("<q", metadata, fields.body_length, body)
    metadata += bytes(-len(metadata) % 8)
    out.seek(0)
    out.write(CONTINUED + struct.pack("<i", len(metadata)) + metadata)
    for each in buffers:
        written = _copy(stream, each, fields.compression.codec, out)
        if written != each.size:
            raise ValueError(f"a buffer of {each.size} bytes has {written}")
        out.write(bytes(-written % _ALIGNED))
    out.flush()
    return out.tell()


def _described(stream: BinaryIO, fields: BatchFields, at: int) -> _Buffer:
    offset, length = struct.unpack_from("<qq", fields.metadata, at)
    begin = fields.body + offset
    if length < 8:
        return _Buffer(at, begin, begin, 0, is_plain=True)
    stream.seek(begin)
    (size,) = struct.unpack("<q", stream.read(8))
    if not -1 <= size <= _MOST:
        raise ValueError(f"a buffer would have {size} bytes")
    return _Buffer(at, begin + 8, begin + length, length - 8 if size < 0 else size, is_plain=size < 0)


def _copy(stream: BinaryIO, buffer: _Buffer, codec: str, out: BinaryIO) -> int:
    """Write a buffer decompressed; returns its bytes, and stops behind those that it says."""
    import pyarrow as pa

    source = pa.PythonFile(ArrowBytes([Range(stream, buffer.begin, buffer.end)]), mode="r")
    opened = source if buffer.is_plain else pa.CompressedInputStream(source, codec)
    written = 0
    while written <= buffer.size and buffer.size and (block := opened.read(_BLOCK)):
        written += out.write(block)
    return written
