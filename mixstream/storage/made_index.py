"""The index of a dataset whose files have none: made from the files, whenever it would be read.

What lives here: what a format's `IndexMaker` sees of the files (`OriginalFiles`), and of which version each was. Rules:
an index is made of one version of every file, or made again; the version of each file is remembered (`Original.files`),
and no other is read with that index. Nothing is copied: makers read some bytes of each file.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from math import floor
from typing import BinaryIO, Protocol, TypeVar

from mixstream.errors import IndexCorruptError, IndexNotFoundError, StoreChangedError, StoreNotFoundError
from mixstream.storage.cache.owner import digest_of
from mixstream.storage.original import Original, is_timeless_now, may_be_rewritten_unseen, without_time
from mixstream.storage.retry import Retry
from mixstream.storage.spec import check_name
from mixstream.storage.store import ObjectInfo, Store, ask_about
from mixstream.storage.stored_file import StoredFile
from mixstream.storage.stores.local import LocalStore, without_inode
from mixstream.storage.url import scheme_of

T = TypeVar("T")

_AT_ONCE = 16  # files that are looked at
_TRIES = 3  # while files are written


class IndexMaker(Protocol):
    """Makes the index of a dataset from its files. Picklable."""

    @property
    def about(self) -> str:
        """Which files it reads, and how: `"corpus.idx rows=2048 overlap=1"`.

        Behind the directory's URL, it says what a cache is filled from. So it differs wherever the index differs for
        the same files, and stays what it is in later versions of mixstream.
        """
        ...

    def make(self, look: "OriginalFiles") -> bytes:
        """Return the index: JSON, the same bytes for the same files, that `formats.open_container` knows.

        It has the size and version of every file that it depends on (`OriginalFiles.info`), and takes O(files) bytes.
        Of what `look` raises, only StoreNotFoundError may be caught.

        Raises:
            IndexCorruptError: the files are not what they should be.
            IndexNotFoundError: there are no such files.
        """
        ...


class OriginalFiles:
    """The files of a dataset as its `IndexMaker` sees them: on local disk or in a store. For any thread.

    A file of five bytes:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from mixstream.storage import Retry, open_store
    >>> with tempfile.TemporaryDirectory() as place:
    ...     _ = Path(place, "corpus.bin").write_bytes(b"12345")
    ...     look = OriginalFiles(open_store(place), Retry())
    ...     look.names(), look.info("corpus.bin").size, look.read("corpus.bin", 3, 99)
    (['corpus.bin'], 5, b'45')

    Args:
        store: the dataset's directory.
        retry: attempts and timeout of each request.
        timeless: whether the store gives the present time as that of every file.

    Attributes:
        found: what the store said of each file that was looked at, by name.
    """

    def __init__(self, store: Store, retry: Retry, *, timeless: bool = False) -> None:
        self._store, self._retry, self.timeless = store, retry, timeless
        self.found: dict[str, ObjectInfo] = {}
        self._hot: set[str] = set()  # files that were being written, perhaps

    @property
    def place(self) -> str:
        """The directory, without credentials, for errors."""
        return self._store.url.rstrip("/")

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of all files below the directory that begin with `prefix`, sorted.

        Raises:
            StoreError: they cannot be listed; plain web servers have no listing.
        """
        found = self._retry.call(f"listing {self.place}", self._store.names, renew=self._store.renew)
        return [name for name in found if name.startswith(prefix) and _is_file(name)]

    def info(self, name: str) -> ObjectInfo:
        """Return size and version of a file, the same however often it is asked for.

        Raises:
            StoreNotFoundError: there is no such file.
            StoreError: the store cannot be read.
        """
        check_name(name)
        if (info := self.found.get(name)) is None:
            what = f"asking for the size of {self.place}/{name}"
            info = self._told(self._retry.call(what, lambda: ask_about(self._store, name), renew=self._store.renew))
            if self._may_change_unseen(info):
                self._hot.add(name)
            info = self.found.setdefault(name, info)
        return without_inode(info) if isinstance(self._store, LocalStore) else info

    def read(self, name: str, begin: int, end: int) -> bytes:
        """Return the bytes [begin, end) of a file, fewer where it ends before.

        Raises:
            StoreChangedError: it is not the file that `info` described any more.
            StoreNotFoundError, StoreError: as `info`.
        """
        size = self.info(name).size
        begin, end = min(begin, size), min(end, size)
        with self._opened(name) as file:
            file.seek(begin)
            return file.read(end - begin)

    def open(self, name: str) -> BinaryIO:
        """Return a file, of which only the ranges are fetched that are read. Errors are those of `read`."""
        self.info(name)
        return self._opened(name)  # pyright: ignore[reportReturnType] - a RawIOBase that reads bytes

    def each(self, act: Callable[[str], T], names: Iterable[str]) -> list[T]:
        """Return what `act` returns for each of the names, in their order: many files are looked at at once."""
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="mixstream-look") as threads:
            return list(threads.map(act, names))

    def _opened(self, name: str) -> StoredFile:
        info = self.found[name]

        def compare(read: ObjectInfo) -> None:
            if self._told(read).identity != info.identity:
                self._hot.add(name)

        known = None if info.vague else info
        return StoredFile(self._store, name, info.size, retry=self._retry, known=known, found=compare)

    def _may_change_unseen(self, info: ObjectInfo) -> bool:
        """Return whether a file, written again now, could look the same: web servers make ETags of whole seconds."""
        if scheme_of(self.place) in ("http", "https"):
            info = ObjectInfo(size=info.size, version=None, modified=info.modified)
        return may_be_rewritten_unseen(info)

    def settle(self) -> bool:
        """Return whether no file was written while it was looked at; otherwise, wait until that would show.

        Finds out whether the store gives the present time as that of every file.
        """
        vague = next((name for name, info in self.found.items() if info.vague and info.modified is not None), None)
        if vague is not None and is_timeless_now(self.found[vague], lambda: ask_about(self._store, vague)):
            self.timeless = True
            return False
        if self._hot:
            now = time.time()
            time.sleep(floor(now) + 1.05 - now)
        return not self._hot

    def _told(self, info: ObjectInfo) -> ObjectInfo:
        return without_time(info) if self.timeless else info


def make_index(maker: IndexMaker, store: Store, *, retry: Retry) -> tuple[bytes, str, Original]:
    """Return the index that is made from the files of a store, what it was made from, and of which original it is.

    Raises:
        IndexNotFoundError: a file that it needs is not there.
        IndexCorruptError: the files are not what they should be.
        StoreChangedError: they were replaced meanwhile, each time.
        StoreError: the store cannot be read.
    """
    where = made_of(maker, store.url)
    timeless = False
    for left in reversed(range(_TRIES)):
        look, began = OriginalFiles(store, retry, timeless=timeless), time.time()
        try:
            data = maker.make(look)
        except StoreNotFoundError as error:
            raise IndexNotFoundError(f"{where}: a file is missing: {error}") from error
        except StoreChangedError:
            if not left:
                raise
            continue
        if left and not look.settle():
            timeless = look.timeless
            continue
        times = [info.modified for info in look.found.values() if info.modified is not None]
        index = ObjectInfo(size=len(data), version=f'"{digest_of(data)}"', modified=max(times, default=None))
        return (
            data,
            where,
            Original(
                place=store.url,
                index=index,
                began=began,
                started=began,
                name=maker.about,
                timeless=look.timeless,
                files=look.found,
            ),
        )
    raise AssertionError("the last try returns or raises")


def made_of(maker: IndexMaker, place: str) -> str:
    """Return what an index is made from, which is also what a cache of its shards is bound to."""
    return f"{place.rstrip('/')}/{maker.about}"


def _is_file(name: str) -> bool:
    try:
        check_name(name)
    except IndexCorruptError:
        return False
    return True
