"""A store that tells somebody whenever a request of it begins or ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mixstream.storage.store import ObjectBytes, ObjectInfo, Store


@dataclass(frozen=True, slots=True)
class WatchedStore:
    """`store`, with a call of `beat`, on whatever thread, before and after each read.

    So others see that a download is alive, also while its bytes go to memory.
    """

    store: Store
    beat: Callable[[], None]

    @property
    def url(self) -> str:
        """The directory as people may see it."""
        return self.store.url

    def read(self, name: str, begin: int = 0, end: int | None = None, *, version: str | None = None) -> ObjectBytes:
        """Return bytes of an object."""
        self.beat()
        try:
            return self.store.read(name, begin, end, version=version)
        finally:
            self.beat()

    def info(self, name: str) -> ObjectInfo:
        """Return the size and the version of an object."""
        return self.store.info(name)

    def write(self, name: str, data: bytes | Path) -> None:
        """Write an object."""
        self.store.write(name, data)

    def names(self, *, limit: int | None = None) -> list[str]:
        """Return the names of objects."""
        return self.store.names(limit=limit)

    def remove(self, name: str) -> None:
        """Remove an object."""
        self.store.remove(name)

    def renew(self) -> None:
        """Forget clients and credentials."""
        self.store.renew()
