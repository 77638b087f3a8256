"""A source file as pyarrow reads it: ranges of its bytes, one after another, and nothing large held in memory.

Rule: up to `HELD` bytes are read into memory. More of them, such as the body of a batch of gigabytes, are mapped: from
the file itself, or from an unlinked copy on local disk if it lies in a store. `release` gives the pages back.
"""

from __future__ import annotations

import io
import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

HELD = 32 << 20
_BLOCK = 1 << 20


class Range(NamedTuple):
    """Bytes of a stream."""

    stream: BinaryIO
    begin: int
    end: int


class ArrowBytes:
    """The ranges as one seekable file, with `before` in front of them, for `pyarrow.PythonFile`.

    >>> stream = io.BytesIO(b"abcdef")
    >>> ArrowBytes([Range(stream, 0, 2), Range(stream, 4, 6)], before=b"x").read()
    b'xabef'
    """

    closed = False

    def __init__(self, ranges: Sequence[Range], *, before: bytes = b"") -> None:
        self._ranges, self._before = ranges, before
        self._size = len(before) + sum(each.end - each.begin for each in ranges)
        self._at = 0
        self._maps: dict[int, mmap.mmap | None] = {}
        self._copy: mmap.mmap | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return False."""
        return False

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte."""
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence] + offset
        return self._at

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def size(self) -> int:
        """Return the number of bytes."""
        return self._size

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, fewer than `size` only at the end."""
        parts: list[bytes] = []
        wanted = self._size - self._at if size < 0 else size
        if self._at < len(self._before) and wanted > 0:
            parts.append(self._before[self._at : self._at + wanted])
            self._at += len(parts[0])
            wanted -= len(parts[0])
        while wanted > 0 and (place := self._place()) is not None:
            place.stream.seek(place.begin)
            part = place.stream.read(min(place.end - place.begin, wanted))
            if not part:
                break
            parts.append(part)
            self._at += len(part)
            wanted -= len(part)
        return b"".join(parts)

    def read_buffer(self, size: int = -1) -> memoryview:
        """Return the next bytes, mapped if they are many; pyarrow calls it instead of `read`."""
        wanted = max(min(self._size - self._at if size < 0 else size, self._size - self._at), 0)
        place = self._place()
        if wanted <= HELD or place is None:
            return memoryview(self.read(wanted))
        own = self._map(place.stream) if place.end - place.begin >= wanted else None
        if own is not None:
            self._at += wanted
            return memoryview(own)[place.begin : place.begin + wanted]
        self._copy = self._copied(wanted)
        return memoryview(self._copy)

    def release(self) -> None:
        """Give back the memory of mapped bytes that were read."""
        for each in (*self._maps.values(), self._copy):
            if each is not None:
                each.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Do nothing: the stream belongs to the caller, and mappings end with the last array over them."""

    def _place(self) -> Range | None:
        """What is left of the range with the next byte."""
        passed = len(self._before)
        if self._at < passed:
            return None
        for each in self._ranges:
            if self._at < passed + each.end - each.begin:
                return each._replace(begin=each.begin + self._at - passed)
            passed += each.end - each.begin
        return None

    def _map(self, stream: BinaryIO) -> mmap.mmap | None:
        """The file of a stream, mapped; None if it is none."""
        if id(stream) not in self._maps:
            try:
                self._maps[id(stream)] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except (io.UnsupportedOperation, OSError):
                self._maps[id(stream)] = None
        return self._maps[id(stream)]

    def _copied(self, size: int) -> mmap.mmap:
        with tempfile.TemporaryFile() as copy:
            while size > 0 and (block := self.read(min(_BLOCK, size))):
                copy.write(block)
                size -= len(block)
            copy.flush()
            return mmap.mmap(copy.fileno(), 0, access=mmap.ACCESS_READ)
