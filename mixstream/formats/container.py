"""The protocol of a file format from which a domain can be read.

A container lists the shards and their content, locates the bytes of a row in a shard, and decodes them. It opens no
file. Plan, cache and loaders use this protocol only, so a new format is a new implementation: MDS (`mds/container.py`),
and datasets with shards of several formats (`mixed.py`).
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2s
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, runtime_checkable

import numpy as np

from mixstream.lazy import later
from mixstream.records import dataclass
from mixstream.types import Buffer, Int64, UInt8

if TYPE_CHECKING:
    from mixstream.formats.cuts import CutRows
else:
    (CutRows,) = later("mixstream.formats.cuts", "CutRows")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """One file: its path below the dataset's directory, its size in bytes, its hashes (name to hexadecimal)."""

    basename: str
    bytes: int
    hashes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePart:
    """The file of which a shard is a part: shards of formats that have no files of their own (`ShardEntry.part`).

    Attributes:
        name: path of the file below the dataset's directory.
        bytes: size of the whole file.
        begin: the first byte of the shard, which is the bytes [begin, begin + raw.bytes) of the file as they are; None
            if the shard is computed from the file (`ComputesShards.make`).
    """

    name: str
    bytes: int
    begin: int | None


@dataclass(frozen=True, slots=True)
class OffsetTable:
    """Rows of any length: a table of u32 in the shard holds where each row begins, and where the last one ends.

    >>> import numpy as np
    >>> shard = np.array([2, 16, 19, 24], dtype="<u4").view(np.uint8)  # two samples: bytes 16 to 19, and 19 to 24
    >>> OffsetTable(begins=4).span(shard, row=1)
    (19, 24)

    Attributes:
        begins: the byte of the shard at which the table begins.
    """

    begins: int

    def span(self, data: UInt8, row: int) -> tuple[int, int]:
        """Return the bytes [begin, end) of row `row`, as the table in the shard `data` says, unchecked."""
        at = self.begins + 4 * row
        begin, end = data[at : at + 8].view("<u4").tolist()
        return begin, end


@dataclass(frozen=True, slots=True)
class SplitOffsets:
    """Rows of any length whose offsets are in a file of their own, which stands before that of the rows in memory.

    >>> import numpy as np
    >>> meta = np.array([2, 0, 3, 8], dtype="<u4").view(np.uint8)  # two rows: bytes 0 to 3, and 3 to 8, of the data
    >>> shard = np.concatenate([meta, np.zeros(16, np.uint8), np.arange(8, dtype=np.uint8)])
    >>> SplitOffsets(data=32).span(shard, row=1)
    (35, 40)

    Attributes:
        data: the byte of the shard at which the file of the rows begins.
    """

    data: int

    def span(self, data: UInt8, row: int) -> tuple[int, int]:
        """Return the bytes [begin, end) of row `row` in the shard `data`, as its table says, unchecked."""
        at = 4 + 4 * row
        begin, end = data[at : at + 8].view("<u4").tolist()
        return self.data + begin, self.data + end


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedStride:
    """Rows of one length, at equal distances: those of a flat file of tokens.

    Rows of 5 tokens of 2 bytes, of which each begins with the last token of the one before (overlap 1):

    >>> import numpy as np
    >>> rows = FixedStride(begins=0, stride=8, size=10)
    >>> rows.span(np.zeros(64, np.uint8), row=2)
    (16, 26)

    Attributes:
        begins: the byte of the shard at which row 0 begins.
        stride: bytes from the beginning of a row to that of the next.
        size: bytes of a row.
    """

    begins: int
    stride: int
    size: int

    def span(self, data: UInt8, row: int) -> tuple[int, int]:
        """Return the bytes [begin, end) of row `row`."""
        del data
        at = self.begins + row * self.stride
        return at, at + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class TailRows:
    """Rows of any length that begin at byte 0 of a shard; u64 behind them say where each ends, in tokens.

    Attributes:
        ends: byte of the shard at which the first of these numbers stands.
        itemsize: bytes of a token.
    """

    ends: int
    itemsize: int

    def span(self, data: UInt8, row: int) -> tuple[int, int]:
        """Return the bytes [begin, end) of row `row` of the checked shard `data`."""
        at = self.ends + 8 * row
        begin = int(data[at - 8 : at].view("<u8")[0]) if row else 0
        return begin * self.itemsize, int(data[at : at + 8].view("<u8")[0]) * self.itemsize

    def begins(self, data: UInt8, rows: int) -> Int64:
        """Return the tokens at which the `rows` rows of the shard begin, and the last one ends, int64 [rows + 1]."""
        end_R = data[self.ends : self.ends + 8 * rows].view("<i8")
        return np.concatenate((np.zeros(1, dtype=np.int64), end_R))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRows:
    """Rows that a packing makes of what is stored: spans of records, which do not lie together.

    Rows of equal fields are gathered together.

    Attributes:
        stored: of the stored records (`kind_of`).
        columns: name and encoding of each column of the stored records.
        pad_id: the token behind the last document of a row; None if there is none.
    """

    stored: object
    columns: tuple[tuple[str, str], ...]
    pad_id: int | None

    def span(self, data: UInt8, row: int) -> tuple[int, int]:
        """Raise an error: such a row has no bytes of its own."""
        raise TypeError(f"packed row {row} of a shard of {len(data)} bytes lies in spans; decode it instead")


RowLayout = OffsetTable | SplitOffsets | FixedStride | CutRows | TailRows | SpanRows
"""Where the rows of a shard lie. A further one is added here, and to the unions below that it belongs to."""

GatheredRows = OffsetTable | FixedStride
"""Rows of which a column is gathered for a whole batch by one call, as `data.gather` does: a kind of them that reads
positions in another way adds them to its compiled loop. Rows of `SpanRows` are gathered by `data.gather_spans`, others
are decoded one by one."""

DocumentRows = CutRows | TailRows
"""Rows that are the documents of a shard of bare tokens; `begins` says where."""


def kind_of(rows: RowLayout) -> object:
    """Return what rows of several shards have in common if they are gathered, or decoded, in the same way.

    >>> kind_of(OffsetTable(begins=4)) == kind_of(OffsetTable(begins=4)) != kind_of(OffsetTable(begins=8))
    True
    """
    return rows if isinstance(rows, GatheredRows | SpanRows) else type(rows)


_LONGEST = 200  # bytes of a file's name in that of a part; file systems take 255

PART = 1 << 16
"""A shard of several files is one array in memory: each file begins at a multiple of this number of bytes, which is one
of every machine's page size, so that files can be mapped side by side. What lies between them is zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """One shard as the container's index describes it.

    Rows of shards whose columns (names, encodings, sizes) are equal are gathered together.

    Attributes:
        samples: number of stored rows.
        column_names: in the order in which columns stand in a row.
        column_encodings: aligned with the names; each by its name in MDS (`"ndarray:uint16:2048"`).
        column_sizes: aligned with the names; the size of a column in bytes, None if it varies.
        compression: as `formats.decompress` takes it (`"zstd:7"`), or None.
        hashes: names of the hashes of its files.
        raw: the uncompressed shard, whether or not it is stored.
        zip: the compressed shard; None without compression.
        meta: the uncompressed file with the offsets of the rows, where the format has one beside the shard; it is named
            like `raw`, with ".meta" behind.
        meta_zip: the compressed one.
        part: the file of which the shard is a part; None if its files are its own. `raw` is what the shard is in memory
            then, and names the file that a cache keeps of it.
    """

    samples: int
    column_names: tuple[str, ...]
    column_encodings: tuple[str, ...]
    column_sizes: tuple[int | None, ...]
    compression: str | None
    hashes: tuple[str, ...]
    raw: FileInfo
    zip: FileInfo | None
    meta: FileInfo | None = None
    meta_zip: FileInfo | None = None
    part: FilePart | None = None

    @property
    def files(self) -> tuple[tuple[FileInfo, FileInfo | None], ...]:
        """Each file of the shard, uncompressed and (or None) compressed, in their order in memory (`PART`)."""
        if self.meta is None:
            return ((self.raw, self.zip),)
        return (self.meta, self.meta_zip), (self.raw, self.zip)

    @property
    def raw_bytes(self) -> int:
        """Bytes of its uncompressed files."""
        return self.raw.bytes + (self.meta.bytes if self.meta is not None else 0)

    @property
    def zip_bytes(self) -> int:
        """Bytes of its compressed files; 0 without compression."""
        return sum(packed.bytes for _, packed in self.files if packed is not None)

    @property
    def columns(self) -> dict[str, str]:
        """Encoding of each column, by name."""
        return dict(zip(self.column_names, self.column_encodings))


class Container(Protocol):
    """A dataset's shards in one file format."""

    @property
    def shards(self) -> Sequence[ShardEntry]:
        """All shards, in order."""
        ...

    @property
    def extra(self) -> Mapping[str, object]:
        """What the index says beyond the format, such as `mixstream convert`'s entry."""
        ...

    def rows(self, shard: int) -> RowLayout:
        """Return where the rows of shard `shard` lie."""
        ...

    def check(self, shard: int, data: UInt8, *, where: str) -> None:
        """Check the bytes of a whole shard, once, before a row of it is used; `where` names the file in errors.

        Raises:
            ShardCorruptError: the bytes do not match the index.
        """
        ...

    def header(self, shard: int, data: UInt8) -> UInt8:
        """Return the bytes of a shard that precede its first row, uint8; its content was checked with `check`.

        They hold the number of rows and the place of each, so they differ where lengths of rows differ, and reading
        them costs a few bytes a row. Shards of rows of one fixed length have equal headers if they have equally many.
        """
        ...

    def decode(self, shard: int, row: bytes, *, where: str) -> dict[str, Any]:
        """Return the values of a row by column name; `where` names file and row in errors.

        Raises:
            ShardCorruptError: the bytes are not a row of this shard.
        """
        ...


@runtime_checkable
class ComputesShards(Protocol):
    """A container some of whose shards are computed from larger files: `FilePart.begin` is None."""

    def make(self, shard: int, file: BinaryIO) -> Buffer:
        """Return the raw bytes of a shard, of `raw.bytes` bytes, from the file that it is a part of.

        The file is seekable, and only what is read of it is fetched; it is not closed here.

        Raises:
            ShardCorruptError: the file is not what the index says.
        """
        ...


def part_name(file: str, part: int | str) -> str:
    """Return the name by which a cache keeps a part of a file, by its number or name; a long one ends with a hash."""
    below, slash, leaf = file.rpartition("/")
    if len(encoded := leaf.encode(errors="surrogateescape")) > _LONGEST:
        digest = blake2s(encoded, digest_size=8).hexdigest()
        leaf = f"{encoded[: _LONGEST - 18].decode(errors='ignore')}~x{digest}"
    return f"{below}{slash}{leaf}.{part:05}.part"
