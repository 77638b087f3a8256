"""Filling a raw shard from what its dataset has: downloaded, a range of a larger file, unpacked, or computed from one.

Rules: bytes are verified as they arrive, compressed ones in memory, raw ones before their file gets its name; wrong
bytes are fetched again before they are an error. Compressed bytes pass through memory only, and all threads together
hold a bounded number of them. Compressed files on local disk are used before the store is asked.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from mixstream.errors import ShardCorruptError, ShardNotFoundError, StoreError, StoreNotFoundError
from mixstream.lazy import later
from mixstream.metering import here
from mixstream.records import dataclass
from mixstream.storage.cache.confirm import is_current
from mixstream.storage.cache.fill import Partial, opened
from mixstream.storage.cache.own_files import LINKED, is_own, open_own
from mixstream.storage.cache.read_original import compute, original_of, read_file
from mixstream.storage.cache.records import read_record
from mixstream.storage.disk_errors import other_than_file
from mixstream.storage.forks import ProcessLocal
from mixstream.storage.mapping import map_file
from mixstream.storage.original import Original
from mixstream.storage.retry import Retry
from mixstream.storage.spec import INDEX, CompressedSpec, ShardSpec, wrong_size
from mixstream.storage.store import ObjectInfo, Store, ask_about, look_at
from mixstream.storage.stores.local import info_of
from mixstream.types import Buffer

if TYPE_CHECKING:
    from mixstream.storage.cache.contents import remove
else:
    (remove,) = later("mixstream.storage.cache.contents", "remove")


T = TypeVar("T")

_UNPACKING = 1 << 30  # bytes, compressed and raw ones, that a process holds in memory at once


class _MemoryBound:
    """A number of bytes that threads share: what is larger is let in alone, so that no thread waits indefinitely."""

    def __init__(self, size: int) -> None:
        self._size, self._taken = size, 0
        self._change = threading.Condition()

    @contextmanager
    def hold(self, size: int, heartbeat: Callable[[], None]) -> Iterator[None]:
        """Hold `size` bytes; `heartbeat` is called about once a second while other threads hold too many."""
        with self._change:
            while self._taken and self._taken + size > self._size:
                self._change.wait(timeout=1.0)
                heartbeat()
            self._taken += size
        try:
            yield
        finally:
            with self._change:
                self._taken -= size
                self._change.notify_all()


_unpacking = ProcessLocal(lambda: _MemoryBound(_UNPACKING))


@dataclass(frozen=True)
class ShardSource:
    """Fills the raw shards of one dataset: what a `Cache` is filled from.

    Args:
        directory: the cache directory, which may have compressed files.
        origin: local directory with the original files; None if there is none.
        store: remote directory with the original files; None if there is none.
        retry: attempts and timeout of requests to the store.
        keep_compressed: whether compressed shards from the store are kept beside the raw ones.
        version: of the originals that the run reads; None if they are not compared with what the cache has.
    """

    directory: Path
    origin: Path | None
    store: Store | None
    retry: Retry
    keep_compressed: bool = False
    version: Original | None = None

    def look(self, name: str) -> ObjectInfo | None:
        """Return what the store, or the local disk, says of an object; None if it is not there, or cannot be asked."""
        if (store := self.store) is None:
            path = self.origin / name if self.origin is not None else None  # a cache may be read without its store
            return info_of(path.stat()) if path is not None and path.is_file() else None
        if self.version is None or not self.version.can_ask:
            return None
        what = f"asking whether {store.url}/{name} was replaced"
        try:
            return self.version.told(self.retry.call(what, lambda: ask_about(store, name), renew=store.renew))
        except StoreNotFoundError:
            return None
        except StoreError as error:
            self.version.warn_away(error)
            return None

    def was_replaced(self, *, within: float = 0.0) -> bool:
        """Return whether the index is another one than when the run began; an answer counts for `within` seconds.

        With `within`, nothing was read from the store just now, so it may be away.
        """
        if (version := self.version) is None or (within and not version.can_ask):
            return False
        try:
            return version.was_replaced(lambda: self._look_at_index(version), within=within)
        except StoreError as error:
            version.warn_away(error)
            return False

    def _look_at_index(self, version: Original) -> ObjectInfo | None:
        if (store := self.store) is None:
            path = Path(version.place, version.name)
            return info_of(path.stat()) if path.is_file() else None
        what = f"asking whether {store.url}/{version.name} was replaced"
        try:
            return version.told(self.retry.call(what, lambda: look_at(store, version.name), renew=store.renew))
        except StoreNotFoundError:
            return None

    def original(self, spec: ShardSpec) -> Path | None:
        """Return where the raw file, or the one that it is a range of, may be on local disk, to be read in place.

        None if it is nowhere else.
        """
        return self.origin / spec.original if self.origin is not None and not spec.is_computed else None

    def can_fill(self, spec: ShardSpec) -> bool:
        """Return whether there is anything to fill a shard from."""
        is_there = self.store is not None or (spec.is_computed and self.origin is not None)
        return is_there or bool(self._compressed_files(spec))

    def kept(self, spec: ShardSpec) -> CompressedSpec | None:
        """Return the compressed file that `fill` fetches and is to be kept; None if it is not to be kept."""
        fetched = self.store is not None and not self._compressed_files(spec)
        return spec.compressed if self.keep_compressed and fetched else None

    def missing(self, spec: ShardSpec) -> ShardNotFoundError:
        """Return the error for a shard of which no file is anywhere."""
        place = self.store.url if self.store is not None else str(self.origin or self.directory)
        names = [spec.name] + ([spec.compressed.name] if spec.compressed is not None else [])
        for name in names if spec.part is None else [spec.original]:
            if place.startswith("/") and (found := other_than_file(Path(place, name))):
                return ShardNotFoundError(
                    f"shard not found: {place}/{name} is {found}: put the shard itself there, or convert the "
                    "dataset again"
                )
        if spec.part is not None:
            return ShardNotFoundError(
                f"shard not found: {spec.name} is a part of {place}/{spec.original}, which is not there: restore it"
            )
        return ShardNotFoundError(
            f"shard not found: looked for {', '.join(f'{place}/{name}' for name in names)}; it is listed in {INDEX} of "
            f"{place}: restore the file, or convert the dataset again"
        )

    def fill(self, spec: ShardSpec, file: Partial, kept: Partial | None = None) -> None:
        """Write a raw shard to `file`; to `kept`, if it is given and had to be fetched, its compressed file.

        Raises:
            StoreChangedError: the original was written after the run began to read the dataset.
            ShardNotFoundError: no file of the shard is anywhere.
            ShardCorruptError: wrong bytes came, each time.
            StoreError: the store could not be read.
        """
        try:
            if spec.is_computed:
                self._trying(spec, lambda: self._compute(spec, file))
            elif spec.compressed is None or not self._unpack(spec, spec.compressed, file, kept):
                self._fetch(spec, spec, file)
        except StoreNotFoundError as error:
            raise self.missing(spec) from error

    def _unpack(self, spec: ShardSpec, compressed: CompressedSpec, file: Partial, kept: Partial | None) -> bool:
        """Fill a shard from its compressed file; return False if there is none."""
        size = 2 * compressed.size + spec.size  # some stores have parts in memory beside the whole for an instant
        with _unpacking.value.hold(size, file.heartbeat):
            try:
                data, raw, info = self._unpacked(spec, compressed, file)
            except StoreNotFoundError:
                return False
            file.write(raw)
            file.source = (compressed.name, info) if info is not None else None
            if kept is not None:
                kept.write(data)
                kept.source = file.source
        return True

    def _unpacked(
        self, spec: ShardSpec, compressed: CompressedSpec, file: Partial
    ) -> tuple[bytes | bytearray, bytes, ObjectInfo | None]:
        """Return the bytes of a shard, compressed and raw, and their object; from local disk if they are right."""
        for path in self._compressed_files(spec):
            try:
                with self._opened(path, compressed) as found:
                    if (size := os.fstat(found.fileno()).st_size) != compressed.size:
                        raise wrong_size(path, size, compressed.size)
                    if (info := self._current(spec, compressed, found)) is not None:
                        data = found.read(compressed.size + 1)
                        return data, self._raw(spec, data), info[0]
                remove(self.directory, compressed.name)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENXIO, *LINKED):
                    raise
            except ShardCorruptError as error:
                if self.store is None:
                    error.add_note(f"while unpacking {path}")
                    raise
                if path.parent.is_relative_to(self.directory):  # otherwise it would be tried again and again
                    remove(self.directory, compressed.name)
        fetched = self._fetch(spec, compressed, file)
        assert fetched is not None
        return *fetched, file.source[1] if file.source is not None else None

    def _current(self, spec: ShardSpec, part: CompressedSpec, file: BinaryIO) -> tuple[ObjectInfo | None] | None:
        """Return what is known of the object of a compressed file on local disk; None if it is to be fetched again."""
        found = os.fstat(file.fileno())
        if self._is_copy(Path(str(file.name))):
            if not is_current(spec, part, file, self):
                return None
            record = read_record(self.directory, part.name, found)
            return (record.info if record is not None else None,)
        self.check_age(part, info_of(found), lambda: map_file(file).data)
        return (info_of(found),)

    def check_age(self, part: ShardSpec | CompressedSpec, info: ObjectInfo, read: Callable[[], Buffer]) -> None:
        """Raise StoreChangedError if an object may be of another version, and no hash shows that it is right.

        `info` is of the object; it was read before this is called.
        """
        name = original_of(part)
        if (version := self.version) is None or part.check is not None or name in version.repaired:
            return
        version.warn_if_untold(part.proof, info)
        if name in version.files:
            if version.is_other(name, info, lambda: self.look(name)):
                raise version.changed(name)
            return
        newer = version.is_newer(info, self.store)
        if not newer and not self.was_replaced():
            return
        if part.proof is None or not part.proof(read()):
            raise version.rewritten(name, info) if newer else version.replaced(name)

    def _check_age_of(self, part: ShardSpec | CompressedSpec, file: Partial, data: Buffer) -> None:
        if file.source is not None:
            name, info = file.source
            self.check_age(part, info, lambda: data)
            file.source = name, (self.version and self.version.known(name)) or info

    def _fetch(
        self, spec: ShardSpec, part: ShardSpec | CompressedSpec, file: Partial
    ) -> tuple[bytearray, bytes] | None:
        """Read one file of a shard from the store, and verify it: the raw one straight into `file`.

        Of the compressed one, the bytes are returned, compressed and raw. While wrong bytes come, the file is read
        again, as often as a request is tried, but at least once.
        """

        if (store := self.store) is None:
            raise self.missing(spec)
        into = file.number if part is spec else None

        def read() -> tuple[bytearray, bytes] | None:
            data = read_file(self, store, part, file, into)
            # What is of another version is no damage, which could be fetched again or set aside.
            if data is not None:
                self._check_age_of(part, file, data)
                return data, self._raw(spec, data)
            with os.fdopen(file.number, "rb", closefd=False) as written:
                spec.verify(written)
                arrived = map_file(written).data
            self._check_age_of(part, file, arrived)
            if spec.check_arrived is not None:
                spec.check_arrived(arrived)
            file.filled = True
            return None

        return self._trying(part, read)

    def _trying(self, part: ShardSpec | CompressedSpec, read: Callable[[], T]) -> T:
        """Return what `read` returns; while it finds wrong bytes, call it again."""
        left = max(self.retry.attempts, 2) if self.store is not None else 1
        while True:
            left -= 1
            try:
                return read()
            except ShardCorruptError as error:
                if not left:
                    if self.store is not None:
                        error.add_note(
                            f"{self.store.url}/{original_of(part)} was downloaded again and still does not match: the "
                            "original is damaged, or does not belong to the index"
                        )
                    raise
            if left > 1:
                time.sleep(self.retry.pause(0))

    def _compute(self, spec: ShardSpec, file: Partial) -> None:
        """Fill a shard that is computed from its original, in memory."""
        with _unpacking.value.hold(2 * spec.size, file.heartbeat):  # about as much is read as comes out
            with here().traffic.timed("decompress"):
                raw = memoryview(compute(self, spec, file)).cast("B")
            if raw.nbytes != spec.size:
                raise wrong_size(self.directory / spec.name, raw.nbytes, spec.size)
            self._check_age_of(spec, file, raw)
            file.write(raw)

    def _raw(self, spec: ShardSpec, data: bytes | bytearray) -> bytes:
        with here().traffic.timed("decompress"):
            return spec.unpack(data, self.directory)

    def _compressed_files(self, spec: ShardSpec) -> list[Path]:
        """Return the compressed files of a shard that are on local disk."""
        if spec.compressed is None:
            return []
        places = (self.directory, self.origin) if self.origin is not None else (self.directory,)
        return [path for place in places if self._is_there(path := place / spec.compressed.name)]

    def _is_copy(self, path: Path) -> bool:
        """Whether a file of this path is one that the cache was filled with, and has no other name."""
        return (self.store or self.origin) is not None and path.is_relative_to(self.directory)

    def _is_there(self, path: Path) -> bool:
        with suppress(OSError):
            return is_own(path.lstat()) if self._is_copy(path) else path.is_file()
        return False

    def _opened(self, path: Path, part: CompressedSpec) -> BinaryIO:
        if self._is_copy(path):
            return opened(path, lambda *_: open_own(self.directory, part.name))
        return opened(path)
