"""Filling a raw shard from what its dataset has: downloaded, or unpacked from its compressed file.

Rules: bytes are verified as they arrive, compressed ones in memory, raw ones before their file gets its name; wrong
bytes are fetched again before they are an error. Compressed bytes pass through memory only, and all threads together
hold a bounded number of them. Compressed files on local disk are used before the store is asked.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mixstream.errors import ShardCorruptError, ShardNotFoundError, StoreNotFoundError
from mixstream.storage.cache.contents import remove
from mixstream.storage.cache.fill import Partial, opened
from mixstream.storage.forks import ProcessLocal
from mixstream.storage.retry import Retry
from mixstream.storage.spec import INDEX, CompressedSpec, ShardSpec, wrong_size
from mixstream.storage.store import Store
from mixstream.storage.transfer import read_object

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
    """

    directory: Path
    origin: Path | None
    store: Store | None
    retry: Retry
    keep_compressed: bool = False

    def original(self, spec: ShardSpec) -> Path | None:
        """Return where the raw file may be on local disk, to be read in place; None if it is nowhere else."""
        return self.origin / spec.name if self.origin is not None else None

    def can_fill(self, spec: ShardSpec) -> bool:
        """Return whether there is anything to fill a shard from."""
        return self.store is not None or bool(self._compressed_files(spec))

    def kept(self, spec: ShardSpec) -> CompressedSpec | None:
        """Return the compressed file that `fill` fetches and is to be kept; None if it is not to be kept."""
        fetched = self.store is not None and not self._compressed_files(spec)
        return spec.compressed if self.keep_compressed and fetched else None

    def missing(self, spec: ShardSpec) -> ShardNotFoundError:
        """Return the error for a shard of which no file is anywhere."""
        names = [spec.name] + ([spec.compressed.name] if spec.compressed is not None else [])
        place = self.store.url if self.store is not None else str(self.origin or self.directory)
        return ShardNotFoundError(
            f"shard not found: looked for {', '.join(f'{place}/{name}' for name in names)}; it is listed in {INDEX} of "
            f"{place}: restore the file, or convert the dataset again"
        )

    def fill(self, spec: ShardSpec, file: Partial, kept: Partial | None = None) -> None:
        """Write a raw shard to `file`; to `kept`, if it is given and had to be fetched, its compressed file.

        Raises:
            ShardNotFoundError: no file of the shard is anywhere.
            ShardCorruptError: wrong bytes came, each time.
            StoreError: the store could not be read.
        """
        try:
            if spec.compressed is None or not self._unpack(spec, spec.compressed, file, kept):
                self._fetch(spec, spec, file)
        except StoreNotFoundError as error:
            raise self.missing(spec) from error

    def _unpack(self, spec: ShardSpec, compressed: CompressedSpec, file: Partial, kept: Partial | None) -> bool:
        """Fill a shard from its compressed file; return False if there is none."""
        size = 2 * compressed.size + spec.size  # its parts and the whole are in memory together for an instant
        with _unpacking.value.hold(size, file.heartbeat):
            try:
                data, raw = self._unpacked(spec, compressed, file)
            except StoreNotFoundError:
                return False
            file.write(raw)
            if kept is not None:
                kept.write(data)
        return True

    def _unpacked(self, spec: ShardSpec, compressed: CompressedSpec, file: Partial) -> tuple[bytes, bytes]:
        """Return the bytes of a shard, compressed and raw: from local disk if they are there and right."""
        for path in self._compressed_files(spec):
            try:
                with opened(path) as found:
                    if (size := os.fstat(found.fileno()).st_size) != compressed.size:
                        raise wrong_size(path, size, compressed.size)
                    data = found.read(compressed.size + 1)
                    return data, spec.unpack(data, self.directory)
            except FileNotFoundError:
                continue
            except ShardCorruptError as error:
                if self.store is None:
                    error.add_note(f"while unpacking {path}")
                    raise
                if path.parent.is_relative_to(self.directory):  # otherwise it would be tried again and again
                    remove(self.directory, compressed.name)
        fetched = self._fetch(spec, compressed, file)
        assert fetched is not None
        return fetched

    def _fetch(self, spec: ShardSpec, part: ShardSpec | CompressedSpec, file: Partial) -> tuple[bytes, bytes] | None:
        """Read one file of a shard from the store, and verify it: the raw one straight into `file`.

        Of the compressed one, the bytes are returned, compressed and raw. While wrong bytes come, the file is read
        again, as often as a request is tried, but at least once.
        """
        if (store := self.store) is None:
            raise self.missing(spec)
        into = file.number if part is spec else None
        left = max(self.retry.attempts, 2)
        while True:
            left -= 1
            try:
                data = read_object(
                    store, part.name, size=part.size, retry=self.retry, into=into, heartbeat=file.heartbeat
                )
                if data is not None:
                    return data, spec.unpack(data, self.directory)
                with os.fdopen(file.number, "rb", closefd=False) as written:
                    spec.verify(written)
                file.filled = True
                return None
            except ShardCorruptError as error:
                if not left:
                    error.add_note(
                        f"{store.url}/{part.name} was downloaded again and still does not match: the original is "
                        "damaged, or does not belong to the index"
                    )
                    raise
            if left > 1:
                time.sleep(self.retry.pause(0))

    def _compressed_files(self, spec: ShardSpec) -> list[Path]:
        """Return the compressed files of a shard that are on local disk."""
        if spec.compressed is None:
            return []
        places = (self.directory, self.origin) if self.origin is not None else (self.directory,)
        return [path for place in places if (path := place / spec.compressed.name).is_file()]
