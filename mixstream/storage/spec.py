"""What storage knows of a shard from the index: the names, sizes and checks of its raw and its compressed file.

Rule: a name never leads out of the dataset's directory, and is never one that a cache directory uses itself.
"""

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mixstream.errors import IndexCorruptError, ShardCorruptError
from mixstream.storage.mapping import map_file
from mixstream.types import Buffer

INDEX = "index.json"
PREFIX = ".mixstream-"  # of the files that a cache directory holds beside the shards
SHARD_FILE = re.compile(r"shard\.\d{5,}\.(mds|json|csv|tsv|xsv)(\.\w+)*", re.ASCII)
"""The name of a file that a writer writes."""
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
    """

    name: str
    size: int
    check: Callable[[Buffer], None] | None
    unpack: Callable[[bytes], bytes]
    proof: Callable[[Buffer], bool] | None = None


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

    Raises:
        IndexCorruptError: a name leads out of the directory, or is one that the cache uses itself.
    """

    name: str
    size: int
    check: Callable[[Buffer], None] | None
    compressed: CompressedSpec | None
    proof: Callable[[Buffer], bool] | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.compressed is not None:
            check_name(self.compressed.name)

    def verify(self, file: BinaryIO) -> None:
        """Raise ShardCorruptError if `file` is not this shard's raw file: its kind, its size, its bytes."""
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size != self.size:
            raise wrong_size(file.name, found.st_size, self.size)
        if self.check is not None:
            self.check(map_file(file).data)

    def unpack(self, data: bytes, directory: Path) -> bytes:
        """Return the raw bytes of compressed ones; both are verified. `directory` is named in the error."""
        assert self.compressed is not None
        if self.compressed.check is not None:
            self.compressed.check(data)
        raw = self.compressed.unpack(data)
        if len(raw) != self.size:
            raise wrong_size(directory / self.name, len(raw), self.size)
        if self.check is not None:
            self.check(raw)
        return raw


def shard_of(name: str) -> str:
    """Return the raw file by which the cache knows the shard of the raw file `name`: without ".meta", if it has that.

    >>> shard_of("00/shard.00000.json.meta"), shard_of("shard.00000.mds")
    ('00/shard.00000.json', 'shard.00000.mds')
    """
    return name.removesuffix(_META) or name


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
