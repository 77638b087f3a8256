"""Token files as a container, in its two readings: rows of one length, or documents.

Rules. Files are cut into shards of a usual size, at borders of rows or of documents; a document that is larger is a
shard of its own. A row never reaches from one file into the next: the tail of a file is dropped, and counted. Which
rows a shard has depends on the index alone, and for documents on the border files.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, replace
from functools import partial
from typing import Any

import numpy as np

from mixstream.errors import ShardCorruptError
from mixstream.formats.container import FileInfo, FilePart, FixedStride, ShardEntry, part_name
from mixstream.formats.cuts import CutRows, Cuts
from mixstream.formats.tokens.index import TokenFile, TokenIndex
from mixstream.records import dataclass
from mixstream.types import UInt8

_HEADER = 1 << 12  # bytes of a shard that tell it from another one of equally many rows

CutsOf = Callable[[int], Cuts | None]
"""Returns the borders of a file, by its number; None if they are not stored. Opens the border file, once a process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a shard lies.

    Attributes:
        file: number of the file.
        token: the token of the file at which the shard begins.
        document: the document of the file that is its first row; -1 if its rows are no documents.
    """

    file: int
    token: int
    document: int


@dataclass(frozen=True, kw_only=True)
class TokenFiles:
    """The shards of a store of token files. See `Container`.

    A file of 11 tokens of 2 bytes, as rows of 4 tokens and the first one of the next row, in shards of 16 bytes:

    >>> from mixstream.formats.tokens.index import TokenFile, TokenIndex
    >>> file = TokenFile(name="web.bin", bytes=22, version="1", dtype="uint16", begin=0, tokens=11, borders=None)
    >>> store = TokenFiles.of(TokenIndex(kind="raw", seq_len=4, overlap=1, shard_bytes=16, files=(file,)))
    >>> [(shard.raw.basename, shard.samples, shard.raw.bytes, shard.part.begin) for shard in store.shards]
    [('web.bin.00000.part', 2, 18, 0)]
    >>> store.dropped, store.rows(0).span(np.zeros(18, np.uint8), row=1)
    (2, (8, 18))

    Attributes:
        index: the files, and how they are read.
        shards: all shards, in order.
        places: where each of them lies.
        dropped: tokens that are in no row, or in no document, at the ends of files.
        cuts_of: opens borders of documents; None until `Domain.open` has set it.
    """

    index: TokenIndex
    shards: tuple[ShardEntry, ...]
    places: tuple[Place, ...]
    dropped: int = 0
    cuts_of: CutsOf | None = field(default=None, compare=False)

    @classmethod
    def of(cls, index: TokenIndex, cuts_of: CutsOf | None = None) -> "TokenFiles":
        """Return the shards of an index; those of documents need `cuts_of`, and there are none without."""
        shards, places, dropped = [], [], 0
        for number, file in enumerate(index.files):
            if index.seq_len is not None:
                found, left = _row_shards(index, number, file)
                dropped += left
            elif cuts_of is not None and (cuts := cuts_of(number)) is not None:
                found = _document_shards(index, number, file, cuts)
                dropped += file.tokens - cuts.begin(cuts.count)
            else:
                found = iter(())
            for shard, place in found:
                shards.append(shard)
                places.append(place)
        return cls(index=index, shards=tuple(shards), places=tuple(places), dropped=dropped, cuts_of=cuts_of)

    @property
    def row_tokens(self) -> int | None:
        """Tokens of a row; None if samples are documents."""
        return None if self.index.row is None else self.index.row[1]

    @property
    def extra(self) -> Mapping[str, object]:
        """See `Container.extra`: nothing."""
        return {}

    def rows(self, shard: int) -> FixedStride | CutRows:
        """See `Container.rows`."""
        place = self.places[shard]
        itemsize = self.index.files[place.file].itemsize
        if self.index.row is None:
            return CutRows(
                cuts=partial(self._cuts, place.file), document=place.document, token=place.token, itemsize=itemsize
            )
        stride, tokens = self.index.row
        return FixedStride(begins=0, stride=stride * itemsize, size=tokens * itemsize)

    def lists_borders(self) -> bool:
        """Return whether the borders of documents are stored for all shards; each border file is opened, and checked.

        Raises:
            IndexCorruptError, StoreError: one is inconsistent, or cannot be read.
        """
        files = {place.file for place in self.places}
        return self.cuts_of is not None and all(self.cuts_of(file) is not None for file in files)

    def cuts(self, shard: int, read: Callable[[int], UInt8]) -> tuple[Cuts, int] | None:
        """Return the borders of documents in the file of a shard, and the token of the file at which the shard begins.

        None if the borders of the file are not stored. The shard is not read: `read` is for stores that keep borders in
        their shards.
        """
        del read
        place = self.places[shard]
        cuts = self.cuts_of(place.file) if self.cuts_of is not None else None
        return None if cuts is None else (cuts, place.token)

    def borders(self) -> Iterator[UInt8]:
        """Yield the bytes that list the borders of each file, if samples are documents: sizes cannot tell these."""
        if self.index.seq_len is None and self.cuts_of is not None:
            for number in range(len(self.index.files)):
                cuts = self._cuts(number)
                yield cuts.data[cuts.at : cuts.at + 8 * cuts.count]

    def check(self, shard: int, data: UInt8, *, where: str) -> None:
        """See `Container.check`: any tokens are valid, so only their number is checked."""
        if len(data) != (size := self.shards[shard].raw.bytes):
            raise ShardCorruptError(f"{where}: {len(data)} bytes, its part of the file has {size}; fetch it again")

    def header(self, shard: int, data: UInt8) -> UInt8:
        """See `Container.header`: the first tokens, which tell it from others, and the lengths of its documents."""
        place, head = self.places[shard], data[:_HEADER]
        if place.document < 0:
            return head
        first = place.document
        begin_N = self._cuts(place.file).begins(first, first + self.shards[shard].samples + 1)
        return np.concatenate((head, (begin_N - place.token).astype("<i8").view(np.uint8)))

    def decode(self, shard: int, row: bytes, *, where: str) -> dict[str, Any]:
        """See `Container.decode`."""
        dtype = np.dtype(self.index.files[self.places[shard].file].dtype)
        if len(row) % dtype.itemsize:
            raise ShardCorruptError(f"{where}: {len(row)} bytes are no whole tokens of {dtype}; fetch the shard again")
        return {"tokens": np.frombuffer(bytearray(row), dtype=dtype.newbyteorder("<"))}

    def _cuts(self, file: int) -> Cuts:
        cuts = self.cuts_of(file) if self.cuts_of is not None else None
        assert cuts is not None, "shards of documents are made from their borders"
        return cuts


def whole_file(store: TokenFiles) -> TokenFiles:
    """Return a store of one file as a single shard, which has all tokens of it, for rows that lie anywhere in it."""
    (file,), first = store.index.files, store.shards[0]
    shard = replace(
        first,
        samples=1,
        raw=FileInfo(basename=part_name(file.name, "whole"), bytes=file.bytes, hashes={}),
        part=FilePart(name=file.name, bytes=file.bytes, begin=0),
    )
    return replace(store, shards=(shard,), places=(Place(file=0, token=0, document=-1),), dropped=0)


def _row_shards(index: TokenIndex, number: int, file: TokenFile) -> tuple[Iterator[tuple[ShardEntry, Place]], int]:
    """Return the shards of a file as rows, and how many of its tokens are in none."""
    assert index.seq_len is not None
    length, overlap = index.seq_len, index.overlap
    rows = max(file.tokens - overlap, 0) // length
    each = max(index.shard_bytes // (length * file.itemsize), 1)

    def shards() -> Iterator[tuple[ShardEntry, Place]]:
        for part, row in enumerate(range(0, rows, each)):
            count, begin = min(each, rows - row), row * length
            tokens = (begin, begin + count * length + overlap)
            yield (
                _entry(file, part, tokens=tokens, samples=count, row=length + overlap),
                Place(file=number, token=begin, document=-1),
            )

    return shards(), file.tokens - (rows * length + overlap if rows else 0)


def _document_shards(index: TokenIndex, number: int, file: TokenFile, cuts: Cuts) -> Iterator[tuple[ShardEntry, Place]]:
    """Yield the shards of a file as documents; empty documents at a border belong to the shard before it."""
    limit = max(index.shard_bytes // file.itemsize, 1)
    document, part, last = 0, 0, cuts.begin(cuts.count)
    while document < cuts.count and (begin := cuts.begin(document)) < last:
        end = cuts.count if begin + limit >= last else cuts.find(begin + limit)
        if cuts.begin(end) == begin:  # one document larger than a shard: up to the next one that has tokens
            end = cuts.find(cuts.begin(end + 1)) if cuts.begin(end + 1) < last else cuts.count
        yield (
            _entry(file, part, tokens=(begin, cuts.begin(end)), samples=end - document, row=None),
            Place(file=number, token=begin, document=document),
        )
        document, part = end, part + 1


def _entry(file: TokenFile, part: int, *, tokens: tuple[int, int], samples: int, row: int | None) -> ShardEntry:
    """Return the shard of the tokens [begin, end) of a file; `row` is the number of tokens of a row, if it is fixed."""
    begin, end = tokens
    return ShardEntry(
        samples=samples,
        column_names=("tokens",),
        column_encodings=(f"ndarray:{file.dtype}" + ("" if row is None else f":{row}"),),
        column_sizes=(None if row is None else row * file.itemsize,),
        compression=None,
        hashes=(),
        raw=FileInfo(basename=part_name(file.name, part), bytes=(end - begin) * file.itemsize, hashes={}),
        zip=None,
        part=FilePart(name=file.name, bytes=file.bytes, begin=file.begin + begin * file.itemsize),
    )
