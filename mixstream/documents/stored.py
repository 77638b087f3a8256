"""A file in a store, as the file object that Parquet readers take: only the ranges that are read are fetched."""

from __future__ import annotations

import io
from typing import Any

from mixstream.errors import NoRangesError, ShardCorruptError
from mixstream.storage import Retry, Store


class StoredFile(io.RawIOBase):
    """Reads an object.

    Args:
        store: where it lies.
        name: of the object.
        size: in bytes, as the index says.
        retry: attempts of each request.
    """

    def __init__(self, store: Store, name: str, size: int, *, retry: Retry) -> None:
        self._store, self._name, self._size, self._retry = store, name, size, retry
        self._at = 0
        self._whole: memoryview | None = None

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to an offset from the beginning, from here or from the end."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Fetch the next bytes into a buffer."""
        view = memoryview(buffer).cast("B")
        end = min(self._at + len(view), self._size)
        if end <= self._at:
            return 0
        size = end - self._at
        view[:size] = self._range(self._at, end)
        self._at = end
        return size

    def _range(self, begin: int, end: int) -> memoryview:
        if self._whole is None:
            try:
                return self._read(begin, end)
            except NoRangesError:
                self._whole = self._read(0, None)
        return self._whole[begin:end]

    def _read(self, begin: int, end: int | None) -> memoryview:
        place = f"{self._store.url.rstrip('/')}/{self._name}"
        found = self._retry.call(
            f"reading {place}", lambda: self._store.read(self._name, begin, end), renew=self._store.renew
        )
        if found.info.size != self._size:
            raise ShardCorruptError(
                f"{place}: it has {found.info.size} bytes, the index says {self._size}; copy it again from where it "
                "was made"
            )
        return memoryview(found.data).cast("B")
