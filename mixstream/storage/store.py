"""What a store is: one directory of an object store, or of a disk, whose objects are read and written by name.

What lives here: the protocol, and the records that it speaks in. Rules: a method makes one attempt and raises an error
of `mixstream.errors` (trying again is the caller's); nothing that a server says about a status, a range or a length is
believed unchecked; what people get to read carries no credentials. `open` turns a URL into a store.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12 on


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What a store says of an object.

    Args:
        size: bytes.
        version: ETag or the like, another one whenever the object is; None where the store has none.
    """

    size: int
    version: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectBytes:
    """Bytes of an object.

    Args:
        data: exactly as many bytes as were asked for.
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
        StoreBusyError: asked to slow down.
        StoreFaultError: refused, reset, stalled, or not what was asked for.
        StoreError: anything else, which trying again would not mend.
    """

    @property
    def url(self) -> str:
        """The directory as people may see it: without credentials."""
        ...

    def read(self, name: str, begin: int = 0, end: int | None = None, *, version: str | None = None) -> ObjectBytes:
        """Return the bytes [begin, end) of an object, by default all of it.

        Raises:
            StoreChangedError: the object's version is not `version`.
            StoreFaultError: the object ends before `end`, or the answer is not what was asked for.
            NoRangesError: only all of it can be had, by `read(name)`.
        """
        ...

    def info(self, name: str) -> ObjectInfo:
        """Return the size and the version of an object."""
        ...

    def write(self, name: str, data: bytes | Path) -> None:
        """Write an object, from memory or from a file, whole or not at all; what has its name is replaced.

        Raises:
            OSError: the file to be written cannot be read; that is no StoreError.
        """
        ...

    def names(self, *, limit: int | None = None) -> list[str]:
        """Return the names of all objects below the directory, sorted; with `limit`, of no more than that many."""
        ...

    def remove(self, name: str) -> None:
        """Remove an object; none of that name is no error."""
        ...

    def renew(self) -> None:
        """Forget clients and credentials: the next request reads them anew."""
        ...
