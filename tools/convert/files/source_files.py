"""Source files: their records and those of slices, and opening them, decompressed or at any byte.

What lives here: what a file is, byte ranges. What must not: formats and documents (readers/), domains (sources.py),
where bytes come from (stored_bytes.py).

Invariant: every stored byte is either returned or reported. A compressed file that is truncated, and a file that
changed since it was listed, are errors; they never make the corpus shorter.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from mixstream.errors import MixstreamError

from ...shared.compressed import COMPRESSIONS, FAULTS, Compression, decompress
from ..documents.fields import Fields
from .object_stream import ObjectStream
from .stored_bytes import LocalBytes, OnBytes, SourceError, StoredObject

if TYPE_CHECKING:
    from .choice import Choice

__all__ = [
    "Compression",
    "DamagedFileError",
    "OnBytes",
    "Slice",
    "SourceError",
    "SourceFile",
    "StoredObject",
    "lines_before",
    "open_random",
    "open_slice",
    "split_name",
]

_TAR_SUFFIXES = {"tgz": "gz", "tzst": "zst", "tbz2": "bz2", "tbz": "bz2", "txz": "xz"}
"""Suffixes that say two things: `.tgz` is `.tar.gz`."""
_BLOCK = 1 << 20
_BUFFER = 1 << 16  # of files that are read at any byte, and of objects, which have blocks of their own
_COUNTED = 64 << 20  # bytes of an object that are read again to count lines for an error message


class DamagedFileError(SourceError):
    """A compressed file that is truncated, or that does not have the compression of its suffix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file as it was when the sources were listed."""

    path: str
    """Its path, or its URL without credentials."""
    name: str
    """Path below its SRC, with `/`; a restart compares name, size and `stamp`."""
    size: int
    mtime_ns: int
    """When a local file was written last; 0 for an object."""
    format: str
    """A key of `readers.READERS`."""
    compression: Compression
    fields: Fields | None = None
    """What its documents are, where its SRC says otherwise than the command."""
    choice: Choice | None = None
    """Of an archive: which of its members are read, and as what; None for all, as they are."""
    version: str | None = None
    """What says that it is the same file, where that is not its time: `ObjectInfo.identity`, or a hash."""
    stored: StoredObject | None = None
    """Where it lies, if not at `path` on local disk."""

    @property
    def stamp(self) -> int | str:
        """What, beside its size, tells the file from another one of its name."""
        return self.mtime_ns if self.version is None else self.version

    @property
    def whole(self) -> Slice:
        """All of the file."""
        return Slice(file=self, start=0, stop=self.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Bytes `start` to `stop` of a file as stored; always the whole of a compressed file.

    A slice has the records that begin in these bytes. Where a format does not say at which byte a record begins (row
    groups, batches), record group `k` of `n` begins at byte `size * k // n`.
    """

    file: SourceFile
    start: int
    stop: int


def split_name(path: str) -> tuple[str, str, Compression]:
    """Stem, suffix and compression of a file name: `dir/web.jsonl.gz` → `("web", ".jsonl", "gz")`."""
    name = path.rpartition("/")[2]
    stem, dot, last = name.rpartition(".")
    if stem and (packed := _TAR_SUFFIXES.get(last.lower())):
        name = f"{stem}.tar.{packed}"
        stem, dot, last = name.rpartition(".")
    compression = COMPRESSIONS.get(last.lower(), "") if stem else ""
    if compression:
        name = stem
        stem, dot, last = name.rpartition(".")
    return (stem, dot + last.lower(), compression) if stem else (name, "", compression)


@contextmanager
def open_slice(piece: Slice, on_bytes: OnBytes | None = None) -> Iterator[BinaryIO]:
    """Open a slice for reading, decompressed; `on_bytes` is called with the number of stored bytes of each read.

    The stream starts at `piece.start` and runs to the end of the file. The reader decides where the slice ends, because
    only it knows where a record ends. Raises SourceError if the file changed since it was listed or is damaged, and
    StoreError if a store cannot be read.
    """
    with _open(piece.file, on_bytes, piece.stop) as raw:
        raw.seek(piece.start)
        try:
            yield decompress(raw, piece.file.compression, _BLOCK if piece.file.stored is None else _BUFFER)
        except FAULTS as error:
            if isinstance(error, MixstreamError) or (isinstance(error, OSError) and error.errno is not None):
                raise  # of the store, or of the system; those of gzip and bz2 have no number
            kind = piece.file.compression
            raise DamagedFileError(f"{piece.file.path}: the {kind} data is damaged or cut short: {error}") from error


@contextmanager
def open_random(file: SourceFile, on_bytes: OnBytes | None = None) -> Iterator[BinaryIO]:
    """Open a file that is not compressed for reading at any byte, wherever it lies.

    In a store, each jump costs a request of at least 1 MiB, and reading in order is as fast as with `open_slice`.
    Errors as there.

        with open_random(file, on_bytes) as stream:
            table = pyarrow.parquet.ParquetFile(stream)
    """
    with _open(file, on_bytes) as raw:
        yield cast(BinaryIO, io.BufferedReader(raw, _BUFFER))


def lines_before(file: SourceFile, offset: int) -> int | None:
    """How many lines end before byte `offset` of an uncompressed file; reads all bytes before it.

    None for an object, if that would be too many bytes for an error message.
    """
    if file.stored is not None and offset > _COUNTED:
        return None
    lines = 0
    with open_slice(file.whole) as stream:
        while offset and (block := stream.read(min(_BLOCK, offset))):
            lines += block.count(b"\n")
            offset -= len(block)
    return lines


@contextmanager
def _open(file: SourceFile, on_bytes: OnBytes | None, until: int | None = None) -> Iterator[LocalBytes | ObjectStream]:
    """Open the bytes of a file as they are stored; raises SourceError if it is another one than it was."""
    if file.stored is None:
        opened = LocalBytes(file.path, file.size, file.mtime_ns, on_bytes)
    else:
        opened = ObjectStream(
            file.stored,
            path=file.path,
            size=file.size,
            identity=file.version or "",
            on_bytes=on_bytes,
            until=until,
        )
    with opened as raw:
        try:
            yield raw
        except Exception:
            raw.check_unchanged()  # what another program writes meanwhile looks like damage
            raise
        raw.check_unchanged()
