"""Source files as bytes: what is stored in them, and opening them anywhere.

What lives here: suffixes, decompression, byte ranges. What must not: documents (readers.py), domains (sources.py).

Invariant: a byte that is stored is either handed on or reported. A compressed file that is cut short, and a file that
changed since it was listed, are errors: never a shorter corpus.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import zstandard

from mixstream.errors import MixstreamError

if TYPE_CHECKING:
    from collections.abc import Iterator

Format = Literal["text", "jsonl"]
Compression = Literal["", "gz", "zst"]
OnBytes = Callable[[int], None]

_COMPRESSIONS: dict[str, Compression] = {"gz": "gz", "zst": "zst", "zstd": "zst"}
_JSONL_SUFFIXES = frozenset({".jsonl", ".json", ".ndjson"})
# Files with these suffixes are taken as text without opening them; any other is looked into (`is_binary`).
_KNOWN_SUFFIXES = _JSONL_SUFFIXES | frozenset(
    f".{suffix}"
    for line in (
        "txt text md rst tex html htm xml css csv tsv yaml yml toml ini cfg sh sql",
        "py pyi c h cc cpp hpp cu cuh java js jsx ts tsx go rs rb php cs swift kt scala",
    )
    for suffix in line.split()
)
_SNIFFED = 8000  # bytes; git calls a file binary by a NUL among as many
_BLOCK = 1 << 20
_ZSTD_BLOCK = 1 << 16  # stored bytes that are decompressed at a time; small, as they may grow a thousandfold


class SourceError(MixstreamError, ValueError):
    """A source that cannot be read as what it should be; the message names the file and, if there is one, the line."""


class DamagedFileError(SourceError):
    """A compressed file that ends too early or is not what its suffix says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file as it was when the sources were listed."""

    path: str
    name: str
    """Path below its SRC, with `/`; together with size and time this is what a restart compares."""
    size: int
    mtime_ns: int
    format: Format
    compression: Compression

    @property
    def whole(self) -> Slice:
        """All of the file."""
        return Slice(file=self, start=0, stop=self.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Bytes `start` to `stop` of a file as it is stored; of a compressed file always all of it."""

    file: SourceFile
    start: int
    stop: int


def list_file(
    path: str, stat: os.stat_result, *, name: str, forced: Literal["auto", "text", "jsonl"] = "auto"
) -> SourceFile:
    """Describe a file as it is now. What is stored in it is told by its suffixes, unless it is `forced`.

    Paths are plain strings here: a corpus may have millions of files, and each start lists them all.
    """
    _, suffix, compression = split_name(path)
    file = SourceFile(
        path=path,
        name=name,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        format=("jsonl" if suffix in _JSONL_SUFFIXES else "text") if forced == "auto" else forced,
        compression=compression,
    )
    if forced == "auto" and suffix == ".json" and not _holds_json_lines(file):
        return replace(file, format="text")
    return file


def split_name(path: str) -> tuple[str, str, Compression]:
    """A file's name in three: `("web", ".jsonl", "gz")` of `dir/web.jsonl.gz`. Suffixes come in lower case."""
    name = path.rpartition("/")[2]
    stem, dot, last = name.rpartition(".")
    compression = _COMPRESSIONS.get(last.lower(), "") if stem else ""
    if compression:
        name = stem
        stem, dot, last = name.rpartition(".")
    return (stem, dot + last.lower(), compression) if stem else (name, "", compression)


def _holds_json_lines(file: SourceFile) -> bool:
    """Whether the first line of a .json file is an object. Else it is one JSON document, as text as any other."""
    try:
        with open_slice(file.whole) as stream:
            line = stream.readline(_BLOCK)
        if len(line) == _BLOCK:
            return line.startswith(b"{")
        return isinstance(json.loads(line), dict)
    except DamagedFileError:
        return True  # the reader will find it, and say so
    except (ValueError, RecursionError):
        return False


def is_binary(file: SourceFile) -> bool:
    """Whether a file is something else than text: a NUL byte near its beginning. Files known as text are not opened."""
    if split_name(file.path)[1] in _KNOWN_SUFFIXES:
        return False
    try:
        with open_slice(file.whole) as stream:
            return b"\0" in stream.read(_SNIFFED)
    except DamagedFileError:
        return False  # the reader will find it, and say so


@contextmanager
def open_slice(piece: Slice, on_bytes: OnBytes | None = None) -> Iterator[BinaryIO]:
    """Open a slice for reading, decompressed; `on_bytes` is told of stored bytes as they are read.

    The stream is placed at `piece.start` and runs to the end of the file: where the slice ends is for the reader, which
    knows where a record does. Raises SourceError if the file is not the one that was listed, is damaged or cut short.
    """
    with _Counted(piece.file.path, on_bytes) as raw:
        _check_unchanged(raw, piece.file)
        raw.seek(piece.start)
        try:
            yield _decompressed(raw, piece.file.compression)
        except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
            kind = piece.file.compression
            raise DamagedFileError(f"{piece.file.path}: the {kind} data is damaged or cut short: {error}") from error
        _check_unchanged(raw, piece.file)


class _Counted(io.FileIO):
    """A file that tells how many bytes were read from it."""

    def __init__(self, path: str, on_bytes: OnBytes | None) -> None:
        super().__init__(path)
        self._on_bytes = on_bytes

    def readinto(self, buffer: Any, /) -> int | None:
        size = super().readinto(buffer)
        if self._on_bytes is not None and size:
            self._on_bytes(size)
        return size


def _check_unchanged(raw: io.FileIO, file: SourceFile) -> None:
    now = os.fstat(raw.fileno())
    if (now.st_size, now.st_mtime_ns) != (file.size, file.mtime_ns):
        raise SourceError(
            f"{file.path}: the file changed while it was being converted ({file.size} bytes when the sources were "
            f"listed, {now.st_size} now). Let it come to rest, then run the same command with --overwrite."
        )


def _decompressed(raw: io.FileIO, compression: str) -> BinaryIO:
    stored = io.BufferedReader(raw, _BLOCK)
    if compression == "gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=stored, mode="rb"))  # it is one in all but its declared type
    return io.BufferedReader(_ZstdRaw(stored), _BLOCK) if compression == "zst" else stored


class _ZstdRaw(io.RawIOBase):
    """Decompresses frame after frame. zstandard's own stream_reader takes a file cut inside a frame for a whole one."""

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
            # Frames made with --long need more than the default window of 128 MiB.
            self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        self._ready = memoryview(self._frame.decompress(self._stored))
        self._stored = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:
            self._frame = None
        return True


def lines_before(file: SourceFile, offset: int) -> int:
    """How many lines end before byte `offset` of a plain file; reads all that lies there."""
    lines = 0
    with Path(file.path).open("rb") as stream:
        while offset and (block := stream.read(min(_BLOCK, offset))):
            lines += block.count(b"\n")
            offset -= len(block)
    return lines
