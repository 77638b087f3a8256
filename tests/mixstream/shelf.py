"""Stores for tests of what is written: in memory, or a directory; both go wrong where they are told to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from fnmatch import fnmatchcase
from hashlib import md5
from pathlib import Path

from mixstream.errors import StoreNotFoundError
from mixstream.storage import ObjectBytes, ObjectInfo

Act = Callable[[str], None]


class Shelf:
    """A store in memory.

    Attributes:
        objects: what it holds.
        log: what was done, in the order in which it was finished: `("write", name)`.
        before: what happens before an act is carried out, by a glob over `"write web/index.json"`; may raise.
    """

    def __init__(
        self, objects: dict[str, bytes] | None = None, *, url: str = "s3://bucket/prefix", versions: bool = True
    ) -> None:
        self.url = url
        self._versions = versions
        self.objects = dict(objects or {})
        self.log: list[tuple[str, str]] = []
        self.before: dict[str, Act] = {}
        self.renewed = 0
        self._lock = threading.Lock()

    def acts(self, act: str) -> list[str]:
        """Names that `act` was done to, in order."""
        return [name for done, name in self.log if done == act]

    def read(self, name: str, begin: int = 0, end: int | None = None, *, version: str | None = None) -> ObjectBytes:
        self._begin("read", name)
        if name not in self.objects:
            raise StoreNotFoundError(f"{self.url}/{name}: no such object")
        return ObjectBytes(data=self.objects[name][begin:end], info=self.info(name))

    def info(self, name: str) -> ObjectInfo:
        self._begin("info", name)
        if (data := self.objects.get(name)) is None:
            raise StoreNotFoundError(f"{self.url}/{name}: no such object")
        return ObjectInfo(size=len(data), version=md5(data).hexdigest() if self._versions else None)

    def write(self, name: str, data: bytes | Path) -> None:
        self._begin("write", name)
        content = data.read_bytes() if isinstance(data, Path) else bytes(data)
        with self._lock:
            self.objects[name] = content
            self.log.append(("write", name))

    def names(self, *, limit: int | None = None) -> list[str]:
        self._begin("names", str(limit))
        self.log.append(("names", str(limit)))
        return sorted(self.objects)[:limit]

    def remove(self, name: str) -> None:
        self._begin("remove", name)
        with self._lock:
            if self.objects.pop(name, None) is not None:
                self.log.append(("remove", name))

    def renew(self) -> None:
        self.renewed += 1

    def _begin(self, act: str, name: str) -> None:
        for pattern, happens in self.before.items():
            if fnmatchcase(f"{act} {name}", pattern):
                happens(name)


def raising(*errors: Exception | None) -> Act:
    """Raise these, one a call (None: nothing); nothing when they are used up."""
    left = list(errors)
    lock = threading.Lock()

    def act(name: str) -> None:
        with lock:
            error = left.pop(0) if left else None
        if error is not None:
            raise error

    return act
