"""A file in a store, as the file object that readers of other formats take: only ranges that are read are fetched."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mixstream.errors import NoRangesError
from mixstream.lazy import later
from mixstream.storage.retry import Retry
from mixstream.storage.store import ObjectInfo, Store, needs_ranges
from mixstream.storage.url import scheme_of

if TYPE_CHECKING:
    from mixstream.storage.transfer import read_object
else:
    (read_object,) = later("mixstream.storage.transfer", "read_object")


_WHOLE = 1 << 30  # bytes of an object that is kept in memory where the server has no ranges


class StoredFile(io.RawIOBase):
    """Reads an object by ranges, all of one version where `known` is given, or the store has strong ETags.

    Of plain web servers, several may stand behind one URL and give different ETags: there, only `known` decides.

    Bytes 6 to 8 of an object of ten:

    >>> import tempfile
    >>> from mixstream.storage import open_store
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     store = open_store(directory)
    ...     store.write("corpus.bin", b"0123456789")
    ...     with StoredFile(store, "corpus.bin", 10, retry=Retry()) as file:
    ...         file.seek(-4, io.SEEK_END), file.read(3)
    (6, b'678')

    Args:
        store: where it lies.
        name: of the object.
        size: in bytes, as the index says.
        retry: attempts of each request.
        known: the version that is to be read, and no other; None for the one that is there at the first read.
        heartbeat: called before and after each request.
        found: called after each read, with what the store said of the object.

    Raises, when it is read:
        ShardCorruptError: the object has another size.
        StoreChangedError: it is another version than `known`, or than at the first read.
        StoreError: it cannot be read.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        size: int,
        *,
        retry: Retry,
        known: ObjectInfo | None = None,
        heartbeat: Callable[[], None] = lambda: None,
        found: Callable[[ObjectInfo], None] = lambda info: None,
    ) -> None:
        self._store, self._name, self._size, self._retry = store, name, size, retry
        self._known, self._heartbeat, self._found = known, heartbeat, found
        self._at = 0
        self._whole: memoryview | None = None

    @property
    def name(self) -> str:
        """Its URL, without credentials."""
        return f"{self._store.url.rstrip('/')}/{self._name}"

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
        """Fetch the next bytes into a buffer; as many as it takes, unless the object ends before."""
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
            except NoRangesError as error:
                if self._size > _WHOLE:
                    error.add_note(needs_ranges(self.name, self._size))
                    raise
            self._whole = self._read(0, self._size)
        return self._whole[begin:end]

    def _read(self, begin: int, end: int) -> memoryview:
        def note(info: ObjectInfo) -> None:
            if not info.vague and scheme_of(self.name) not in ("http", "https"):
                self._known = info
            self._found(info)

        data = read_object(
            self._store,
            self._name,
            size=self._size,
            retry=self._retry,
            heartbeat=self._heartbeat,
            found=note,
            span=(begin, end),
            known=self._known,
        )
        assert data is not None
        return memoryview(data)
