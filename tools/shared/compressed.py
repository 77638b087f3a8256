"""Stored bytes → decompressed bytes: gz, bz2, xz and zst, with every member or frame that a file has.

Invariant: a stream that is cut short or damaged is an error; it never ends early without one.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, Literal, cast

import zstandard

Compression = Literal["", "gz", "zst", "bz2", "xz"]
COMPRESSIONS: dict[str, Compression] = {"gz": "gz", "zst": "zst", "zstd": "zst", "bz2": "bz2", "xz": "xz"}
"""Suffix of a file name → its compression."""
FAULTS = (EOFError, zlib.error, lzma.LZMAError, OSError, zstandard.ZstdError)
"""What reading raises where the data is damaged; an OSError with a number is the system's."""

_BLOCK = 1 << 20
_ZSTD_BLOCK = 1 << 14  # compressed bytes to decompress at a time, at most: each may grow to 32 kB
_ZSTD_OUTPUT = 4 << 20  # decompressed bytes that the next block should give, if it grows as the last one


def decompress(raw: io.RawIOBase | io.BytesIO, compression: str, buffer: int = _BLOCK) -> BinaryIO:
    """Return a stream of what `raw` holds, read `buffer` bytes at a time; for no compression, it seeks if `raw` can."""
    stored = io.BufferedReader(cast(io.RawIOBase, raw), buffer)  # it reads from either
    if compression == "gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=stored, mode="rb"))  # only its declared type differs
    if compression in {"bz2", "xz"}:
        return io.BufferedReader(_StreamsRaw(stored, bz2.BZ2Decompressor if compression == "bz2" else _xz), _BLOCK)
    return io.BufferedReader(_ZstdRaw(stored), _BLOCK) if compression == "zst" else stored


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ)


class _StreamsRaw(io.RawIOBase):
    """Decompresses stream after stream of bz2 or xz. Python's own files end, without a word, at one that is damaged."""

    def __init__(self, stored: BinaryIO, start: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]) -> None:
        self._source, self._start = stored, start
        self._stream: bz2.BZ2Decompressor | lzma.LZMADecompressor | None = None
        self._stored = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while True:
            if not self._stored and (self._stream is None or self._stream.needs_input):
                self._stored = self._source.read(_ZSTD_BLOCK)
                if not self._stored:
                    if self._stream is not None:
                        raise EOFError("the file ends inside a stream")
                    return 0
            if self._stream is None:
                self._stored = self._stored.lstrip(b"\0")  # padding
                if not self._stored:
                    continue
                self._stream = self._start()
            data = self._stream.decompress(self._stored, max_length=len(buffer))
            self._stored = b""
            if self._stream.eof:
                self._stored, self._stream = self._stream.unused_data, None
            if data:
                buffer[: len(data)] = data
                return len(data)


class _ZstdRaw(io.RawIOBase):
    """Decompresses frame after frame. zstandard's own stream_reader accepts a file that is truncated inside a frame."""

    def __init__(self, stored: BinaryIO) -> None:
        self._source = stored
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._stored = b""
        self._ready = memoryview(b"")
        self._block = 1 << 10

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._ready and self._advance():
            pass
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _advance(self) -> bool:
        """Decompress one block into `_ready`; False at the end of the file."""
        self._stored = self._stored or self._source.read(self._block)
        if not self._stored:
            if self._frame is not None:
                raise EOFError("the file ends inside a frame")
            return False
        if self._frame is None:
            # Frames written with `zstd --long` need more than the default window of 128 MiB.
            self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        taken = len(self._stored)
        self._ready = memoryview(self._frame.decompress(self._stored))
        self._block = max(64, min(_ZSTD_BLOCK, self._block * 2, taken * _ZSTD_OUTPUT // (len(self._ready) + 1)))
        self._stored = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:
            self._frame = None
        return True
