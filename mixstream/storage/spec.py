"""What storage knows of a shard from the index: the names, sizes and checks of its raw and its compressed file.

Rules: a name never leads out of the dataset's directory, and is never one that a cache directory uses itself. What a
cache keeps of a file that is no shard has a name of its own, never that of the file: the format calls parts
`corpus.bin.00003.part`, storage calls a companion `corpus.idx.whole`. So no two are alike, whatever files are called.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable
from hashlib import blake2s
from pathlib import Path
from typing import BinaryIO

from mixstream.errors import IndexCorruptError, ShardCorruptError
from mixstream.lazy import pattern
from mixstream.records import dataclass
from mixstream.storage.mapping import map_file, range_of
from mixstream.types import Buffer

INDEX = "index.json"
PREFIX = ".mixstream-"  # of the files that a cache directory holds beside the shards
SHARD_FILE = pattern(r"shard\.\d{5,}\.(mds|json|csv|tsv|xsv)(\.\w+)*", re.ASCII)
"""The name of a file that a writer writes."""
_PLAIN = pattern(r"(?:[A-Za-z0-9_][\w.-]*/)*[A-Za-z0-9_][\w.-]*", re.ASCII)
_PART, _WHOLE = ".part", ".whole"  # behind the name of what a cache keeps of a larger file, and of a companion
_LONGEST = 200  # bytes of a file's name before that; file systems take 255, and a partial adds some
_META = ".meta"  # behind the name of a shard's raw file: of the file with the offsets of its rows


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedSpec:
    """The compressed file of a shard.

    Args:
        name: below the dataset's directory.
        size: bytes.
        check: raises ShardCorruptError for wrong bytes; None if they are not to be checked.
        unpack: compressed bytes -> raw bytes; raises ShardCorruptError.
        proof: whether bytes have a hash that the index lists; None if it lists none.
        check_arrived: as `check`, but only when bytes arrive, not for those on local disk.
    """

    name: str
    size: int
    check: Callable[[Buffer], None] | None
    unpack: Callable[[bytes | bytearray], bytes]
    proof: Callable[[Buffer], bool] | None = None
    check_arrived: Callable[[Buffer], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPart:
    """The larger file of which a raw shard is a part: it is mapped there, or fetched by a range request.

    Args:
        name: of the file, below the dataset's directory.
        size: bytes of the whole file.
        begin: the first byte of the shard in it; None if the shard is computed from it.
        make: reads the file, seekable, and returns the raw bytes; None if the shard is bytes of the file as they are.
    """

    name: str
    size: int
    begin: int | None
    make: Callable[[BinaryIO], Buffer] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSpec:
    """One shard as storage sees it: its raw file, and its compressed file if it has one.

    A shard of two files has two specs, since each is fetched for itself; the cache evicts them together (`shard_of`).

    Args:
        name: of the raw file, below the dataset's directory.
        size: bytes of the raw file.
        check: raises ShardCorruptError for wrong raw bytes; None if they are not to be checked.
        compressed: the compressed file; None if the dataset has raw files only.
        proof: whether raw bytes have a hash that the index lists; None if it lists none.
        part: the file of which the shard is a part; None if it is a file of its own.
        check_arrived: as `check`, but only when bytes arrive, downloaded or unpacked, not for those on local disk.

    Raises:
        IndexCorruptError: a name leads out of the directory, or is one that the cache uses itself.
    """

    name: str
    size: int
    check: Callable[[Buffer], None] | None
    compressed: CompressedSpec | None
    proof: Callable[[Buffer], bool] | None = None
    part: ObjectPart | None = None
    check_arrived: Callable[[Buffer], None] | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.compressed is not None:
            check_name(self.compressed.name)
        if self.part is not None:
            check_name(self.part.name)
            if not self.name.endswith((_PART, _WHOLE)):
                raise IndexCorruptError(
                    f"{self.name!r} is not a valid name for a part of {self.part.name}: it may be that of a file, and "
                    f"names of parts end in {_PART!r}; make the index again"
                )
            if self.part.begin is not None and not 0 <= self.part.begin <= self.part.size - self.size:
                raise IndexCorruptError(
                    f"{self.name}: bytes {self.part.begin} to {self.part.begin + self.size} of {self.part.name}, which "
                    f"has {self.part.size}: the index does not belong to that file; make it again"
                )

    @property
    def original(self) -> str:
        """The file of the dataset that has the raw bytes, or from which they are computed."""
        return self.part.name if self.part is not None else self.name

    @property
    def original_size(self) -> int:
        """Bytes of that file."""
        return self.part.size if self.part is not None else self.size

    @property
    def is_computed(self) -> bool:
        """Whether the raw bytes are nowhere before they are computed from the original."""
        return self.part is not None and self.part.begin is None

    def verify(self, file: BinaryIO) -> None:
        """Raise ShardCorruptError if `file` is not this shard's raw file: its kind, its size, its bytes.

        A range of the original (`mapping.FileRange`) is that of a file of the original's size.
        """
        found = os.fstat(file.fileno())
        expected = self.size if range_of(file) is None else self.original_size
        if not stat.S_ISREG(found.st_mode) or found.st_size != expected:
            raise wrong_size(file.name, found.st_size, expected)
        if self.check is not None:
            self.check(map_file(file).data)

    def unpack(self, data: bytes | bytearray, directory: Path) -> bytes:
        """Return the raw bytes of compressed ones; both are verified. `directory` is named in the error."""
        assert self.compressed is not None
        for check in (self.compressed.check, self.compressed.check_arrived):
            if check is not None:
                check(data)
        raw = self.compressed.unpack(data)
        if len(raw) != self.size:
            raise wrong_size(directory / self.name, len(raw), self.size)
        for check in (self.check, self.check_arrived):
            if check is not None:
                check(raw)
        return raw


def shard_of(name: str) -> str:
    """Return the raw file by which the cache knows the shard of the raw file `name`: without ".meta", if it has that.

    >>> shard_of("00/shard.00000.json.meta"), shard_of("shard.00000.mds")
    ('00/shard.00000.json', 'shard.00000.mds')
    """
    return name.removesuffix(_META) or name


def companion_name(file: str) -> str:
    """Return the name by which a cache keeps the whole of a file that is no shard.

    A long name is cut, and ends with a hash.

    >>> companion_name("books/corpus.idx")
    'books/corpus.idx.whole'
    """
    below, slash, leaf = file.rpartition("/")
    if len(encoded := leaf.encode(errors="surrogateescape")) > _LONGEST:
        digest = blake2s(encoded, digest_size=8).hexdigest()
        leaf = f"{encoded[: _LONGEST - 18].decode(errors='ignore')}~x{digest}"
    return f"{below}{slash}{leaf}{_WHOLE}"


def check_names(names: Iterable[str]) -> None:
    """Check names as `check_name`; those that are plain beyond doubt by one look each, since there may be millions.

    Raises:
        IndexCorruptError: one of them is refused.
    """
    for name in names:
        if _PLAIN.fullmatch(name) is None or name == INDEX:
            check_name(name)


def check_name(name: str) -> None:
    """Refuse what `formats` should have refused: nothing is written outside the directory, whatever the index says.

    Raises:
        IndexCorruptError: the name leads out of the directory, or is one that the cache uses itself.
    """
    parts = name.split("/")
    own = parts[-1].startswith(PREFIX) or (parts[-1].startswith(".") and parts[-1].endswith(".partial"))
    if not name or "\0" in name or own or name == INDEX or any(part in ("", ".", "..") for part in parts):
        raise IndexCorruptError(
            f"{name!r} is not a valid name for a shard: it leads out of the dataset's directory, or is one that the "
            "cache uses itself; fetch the index again, or write the dataset again"
        )


def wrong_size(path: object, found: int, expected: int) -> ShardCorruptError:
    """Return the error for a file of another size than its index says."""
    return ShardCorruptError(
        f"{path}: {found} bytes, the index says {expected}; the shard is truncated or belongs to another index: "
        "copy or upload it again from its origin, or convert it again"
    )
