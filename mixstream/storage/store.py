"""The contract of a store: one directory of an object store, or of a disk, whose objects are read and written by name.

What lives here: the protocol, its records, and the checks that all kinds of stores make. Rules: a method makes one
attempt and raises an error of `mixstream.errors` (the caller retries); no status, range or length that a server sends
is believed unchecked; texts for users contain no credentials. `open` turns a URL into a store.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from mixstream.errors import (
    NoRangesError,
    StoreBusyError,
    StoreChangedError,
    StoreError,
    StoreFaultError,
    StoreNotFoundError,
)
from mixstream.records import dataclass
from mixstream.types import Buffer

WHOLE = 1 << 30
"""Bytes that a store sends at most of an object that is read to its end, where the caller does not say how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What a store reports of an object.

    Args:
        size: bytes.
        version: ETag or the like, which changes whenever the object does; None where the store has none.
        modified: when it was written last, in seconds since 1970 by the store's clock; None where the store has no
            times.
    """

    size: int
    version: str | None
    modified: float | None = None

    @property
    def identity(self) -> str:
        """What tells the object from another one that has or had its name; with a strong ETag, whatever its time.

        >>> ObjectInfo(size=5, version='"0f"', modified=1.0).identity == ObjectInfo(size=5, version='"0f"').identity
        True
        """
        return f"{self.size} {self.version}" + (f" {self.modified}" if self.vague else "")

    @property
    def vague(self) -> bool:
        """Whether an object that is written twice within a second may keep its identity: it has no strong ETag."""
        return self.version is None or self.version.startswith(("W/", "date "))


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectBytes:
    """Bytes of an object.

    Args:
        data: exactly as many bytes as were requested.
        info: of the whole object.
    """

    data: Buffer
    info: ObjectInfo


class Store(Protocol):
    """One directory of objects. Picklable, cheap to make, safe to use from any thread and in any process.

    Every method makes one attempt. A name is relative, with `/`.

    Raises, all of them:
        StoreNotFoundError: no such object, bucket or directory.
        StoreAccessError: no credentials, expired ones, or not enough rights.
        StoreBusyError: the store asks to slow down.
        StoreFaultError: refused, reset, stalled, or not what was requested.
        StoreError: anything else, which a retry would not fix.
    """

    @property
    def url(self) -> str:
        """The directory, without credentials."""
        ...

    def read(self, name: str, begin: int = 0, end: int | None = None, *, version: str | None = None) -> ObjectBytes:
        """Return the bytes [begin, end) of an object, by default all of it.

        Three bytes of an object of ten:

        >>> import tempfile
        >>> from mixstream.storage import open_store
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     store = open_store(directory)
        ...     store.write("shard.00000.mds", b"0123456789")
        ...     part = store.read("shard.00000.mds", 2, 5)
        >>> bytes(part.data), part.info.size
        (b'234', 10)

        Args:
            name: of the object.
            begin: the first byte.
            end: behind the last byte; None for the end of the object.
            version: that the object has to have; None for any.

        Raises:
            StoreError: `end` is None, and more than `WHOLE` bytes would have to be read into memory.
            StoreChangedError: the object's version is not `version`.
            StoreFaultError: the object ends before `end`, or the answer is not what was requested.
            NoRangesError: the server has no ranges; `read(name)` returns the whole object.
        """
        ...

    def info(self, name: str) -> ObjectInfo:
        """Return the size and the version of an object."""
        ...

    def write(self, name: str, data: bytes | Path) -> None:
        """Write an object, from memory or from a file, whole or not at all; an object of that name is replaced.

        Raises:
            OSError: the file to be written cannot be read; this is no StoreError.
        """

    def names(self, *, limit: int | None = None) -> list[str]:
        """Return the names of all objects below the directory, sorted; with `limit`, of no more than that many."""
        ...

    def remove(self, name: str) -> None:
        """Remove an object; it is no error if there is none."""

    def renew(self) -> None:
        """Forget clients and credentials: the next request reads them again."""


@runtime_checkable
class ReadsAtMost(Protocol):
    """A store whose server chooses how long an object is, and that stops it."""

    def read_at_most(self, name: str, most: int, *, version: str | None = None) -> ObjectBytes:
        """Return an object as `Store.read` does; StoreError, and nothing is read, if it has more than `most` bytes."""
        ...


def read_at_most(store: Store, name: str, most: int, *, version: str | None = None) -> ObjectBytes:
    """Return all of an object of at most `most` bytes.

    Raises:
        StoreError: it has more, or as `Store.read`.
    """
    if isinstance(store, ReadsAtMost):
        return store.read_at_most(name, most, version=version)
    found = store.read(name, version=version)
    check_whole(f"{store.url}/{name}", found.info.size, most)
    return found


Take = Callable[[ObjectInfo], Callable[[memoryview, int], None]]
"""What an object is -> what takes its bytes, as (bytes, where they begin in what is read); raises if it is not wanted.

It is called once, before the first byte. The bytes are the caller's own again after the call.
"""


@runtime_checkable
class ReadsInto(Protocol):
    """A store that hands bytes over as they arrive, so that a large part need not be in memory at once."""

    def read_into(self, name: str, begin: int, end: int, take: Take, *, version: str | None = None) -> None:
        """Give the bytes [begin, end) of an object to `take`, in order; otherwise as `Store.read`.

        After an error, what was given is of no use.
        """
        ...


def read_into(store: Store, name: str, begin: int, end: int, take: Take, *, version: str | None = None) -> None:
    """Give the bytes [begin, end) of an object to `take`: as they arrive, where the store does that.

    >>> import tempfile
    >>> from mixstream.storage import open_store
    >>> def take(info):
    ...     print(info.size, "bytes")
    ...     return lambda data, at: print(at, bytes(data))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     store = open_store(directory)
    ...     store.write("shard.00000.mds", b"0123456789")
    ...     read_into(store, "shard.00000.mds", 2, 5, take)
    10 bytes
    0 b'234'

    Raises:
        Those of `Store.read`, and what `take` raises.
    """
    if isinstance(store, ReadsInto):
        store.read_into(name, begin, end, take, version=version)
        return
    found = store.read(name, begin, end, version=version)
    take(found.info)(memoryview(found.data).cast("B"), 0)


def look_at(store: Store, name: str) -> ObjectInfo:
    """Return what the store says of an object, by reading one byte where it can: a refusal of a read says why."""
    try:
        return store.read(name, 0, 1).info
    except NoRangesError:
        return store.info(name)


def ask_about(store: Store, name: str) -> ObjectInfo:
    """Return what a store says of an object; a server that knows no HEAD is asked for one byte."""
    try:
        return store.info(name)
    except (StoreNotFoundError, StoreBusyError, StoreFaultError):
        raise
    except StoreError:
        return look_at(store, name)


def check_version(place: str, found: str | None, expected: str | None) -> None:
    """Raise StoreChangedError if a version is expected and another one was found."""
    if expected is not None and found != expected:
        raise StoreChangedError(
            f"{place}: it was replaced (version {found}, was {expected}): parts read so far cannot be used; do not "
            "replace files of a dataset that is being read"
        )


def needs_ranges(place: str, size: int) -> str:
    """Return the remedy where a server has no ranges and an object is too large to be read whole."""
    return (
        f"{place} has {size} bytes, of which only a range is needed: put it on a server with ranges (S3, nginx, "
        "Apache), or copy it to local disk"
    )


def check_whole(place: str, size: int, most: int) -> None:
    """Raise StoreError if what is to be read of an object, to its end, has more bytes than the caller takes."""
    if size > most:
        raise StoreError(
            f"{place}: {size} bytes are there to be read, and {most} are the most that it can have, so none were read: "
            "check that it is the file that it should be"
        )


def range_end(place: str, begin: int, end: int | None, size: int) -> int:
    """Return the end of a requested range; raise StoreFaultError if an object of `size` bytes does not have it."""
    stop = size if end is None else end
    if not 0 <= begin <= stop <= size:
        raise other_size(
            f"{place}: bytes {begin} to {stop} requested, it has {size}: it is truncated, or belongs to another index; "
            "copy or upload it again from its origin",
            size,
        )
    return stop


def other_size(text: str, size: int) -> StoreFaultError:
    """Return the error for an answer which says that an object has `size` bytes, and should have others."""
    error = StoreFaultError(text)
    error.size = size
    return error
