"""Source files as bytes: records of files and of slices, and opening them, decompressed.

What lives here: decompression, byte ranges. What must not: formats and documents (readers/), domains (sources.py).

Invariant: every stored byte is either returned or reported. A compressed file that is truncated, and a file that
changed since it was listed, are errors; they never make the corpus shorter.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import zstandard

from mixstream.errors import MixstreamError

Compression = Literal["", "gz", "zst", "bz2", "xz"]
OnBytes = Callable[[int], None]

_COMPRESSIONS: dict[str, Compression] = {"gz": "gz", "zst": "zst", "zstd": "zst", "bz2": "bz2", "xz": "xz"}
_BLOCK = 1 << 20
_ZSTD_BLOCK = 1 << 16  # compressed bytes to decompress at a time; small, because they may grow a thousandfold


class SourceError(MixstreamError, ValueError):
    """A source that cannot be read in its format; the message names the file and, if there is one, the line."""


class DamagedFileError(SourceError):
    """A compressed file that is truncated, or that does not have the compression of its suffix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file as it was when the sources were listed."""

    path: str
    name: str
    """Path below its SRC, with `/`; a restart compares name, size and time."""
    size: int
    mtime_ns: int
    format: str
    """A key of `readers.READERS`."""
    compression: Compression

    @property
    def whole(self) -> Slice:
        """All of the file."""
        return Slice(file=self, start=0, stop=self.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Bytes `start` to `stop` of a file as stored; always the whole of a compressed file."""

    file: SourceFile
    start: int
    stop: int


def split_name(path: str) -> tuple[str, str, Compression]:
    """Stem, suffix and compression of a file name: `dir/web.jsonl.gz` → `("web", ".jsonl", "gz")`."""
    name = path.rpartition("/")[2]
    stem, dot, last = name.rpartition(".")
    compression = _COMPRESSIONS.get(last.lower(), "") if stem else ""
    if compression:
        name = stem
        stem, dot, last = name.rpartition(".")
    return (stem, dot + last.lower(), compression) if stem else (name, "", compression)


@contextmanager
def open_slice(piece: Slice, on_bytes: OnBytes | None = None) -> Iterator[BinaryIO]:
    """Open a slice for reading, decompressed; `on_bytes` is called with the number of stored bytes of each read.

    The stream starts at `piece.start` and runs to the end of the file. The reader decides where the slice ends, because
    only it knows where a record ends. Raises SourceError if the file changed since it was listed or is damaged.
    """
    with _Counted(piece.file.path, on_bytes) as raw:
        _check_unchanged(raw, piece.file)
        raw.seek(piece.start)
        try:
            yield _decompressed(raw, piece.file.compression)
        except (EOFError, zlib.error, lzma.LZMAError, OSError, zstandard.ZstdError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the system; those of gzip and bz2 have no number
            kind = piece.file.compression
            raise DamagedFileError(f"{piece.file.path}: the {kind} data is damaged or cut short: {error}") from error
        _check_unchanged(raw, piece.file)


class _Counted(io.FileIO):
    """A file that reports how many bytes were read from it."""

    def __init__(self, path: str, on_bytes: OnBytes | None) -> None:
        # A pipe in the file's place is not waited for; it has another size and time.
        super().__init__(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
        self._on_bytes = on_bytes

    def readinto(self, buffer: Any, /) -> int | None:
        size = super().readinto(buffer)
        self._report(size)
        return size

    def readall(self) -> bytes:
        data = super().readall()
        self._report(len(data))
        return data

    def _report(self, size: int | None) -> None:
        if self._on_bytes is not None and size:
            self._on_bytes(size)


def _check_unchanged(raw: io.FileIO, file: SourceFile) -> None:
    now = os.fstat(raw.fileno())
    if (now.st_size, now.st_mtime_ns) != (file.size, file.mtime_ns):
        raise SourceError(
            f"{file.path}: the file changed while it was being converted ({file.size} bytes when the sources were "
            f"listed, {now.st_size} now). When nothing writes to it any more, run the same command with --overwrite."
        )


def _decompressed(raw: io.FileIO, compression: str) -> BinaryIO:
    stored = io.BufferedReader(raw, _BLOCK)
    if compression == "gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=stored, mode="rb"))  # only its declared type differs
    if compression in {"bz2", "xz"}:
        opened = bz2.BZ2File(stored) if compression == "bz2" else lzma.LZMAFile(stored)  # noqa: SIM115  # `open_slice` closes it
        return io.BufferedReader(cast(io.RawIOBase, opened), _BLOCK)
    return io.BufferedReader(_ZstdRaw(stored), _BLOCK) if compression == "zst" else stored


class _ZstdRaw(io.RawIOBase):
    """Decompresses frame after frame. zstandard's own stream_reader accepts a file that is truncated inside a frame."""

    def __init__(self, stored: BinaryIO) -> None:
        self._source = stored
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._stored = b""
        self._ready = memoryview(b"")

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
        self._stored = self._stored or self._source.read(_ZSTD_BLOCK)
        if not self._stored:
            if self._frame is not None:
                raise EOFError("the file ends inside a frame")
            return False
        if self._frame is None:
            # Frames written with `zstd --long` need more than the default window of 128 MiB.
            self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        self._ready = memoryview(self._frame.decompress(self._stored))
        self._stored = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:
            self._frame = None
        return True


def lines_before(file: SourceFile, offset: int) -> int:
    """How many lines end before byte `offset` of an uncompressed file; reads all bytes before it."""
    lines = 0
    with Path(file.path).open("rb") as stream:
        while offset and (block := stream.read(min(_BLOCK, offset))):
            lines += block.count(b"\n")
            offset -= len(block)
    return lines
