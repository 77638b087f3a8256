"""One shard on its way into a cache directory: the files being written, and how urgent the shard is.

Rules: a file is written as `.{name}.partial` by the thread that holds the lock of that partial, and renamed to its name
while the lock is held; so a file under its name is whole, and what a killed process leaves is known by its free lock. A
partial takes its full size before its first byte is requested: that reserves its room below the limit and on the disk.
"""

import ctypes
import errno
import io
import os
import threading
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mixstream.lazy import later
from mixstream.records import dataclass
from mixstream.storage.cache.locks import release, same_file
from mixstream.storage.cache.own_files import is_own
from mixstream.storage.cache.records import write_record
from mixstream.storage.disk_errors import FULL, open_regular
from mixstream.storage.mapping import FileRange
from mixstream.storage.original import may_be_rewritten_unseen
from mixstream.storage.spec import CompressedSpec, ShardSpec
from mixstream.storage.store import ObjectInfo
from mixstream.storage.whole_files import rename_whole
from mixstream.types import Buffer

if TYPE_CHECKING:
    from mixstream.storage.cache.contents import partial_name
    from mixstream.storage.transfer import write_all
else:
    (partial_name,) = later("mixstream.storage.cache.contents", "partial_name")
    (write_all,) = later("mixstream.storage.transfer", "write_all")


_LIBC = ctypes.CDLL(None, use_errno=True)


class Partial:
    """A file that is being written; its lock is held. Made by `Cache`.

    Attributes:
        number: descriptor of the file, at its full size once `reserve` was called.
        filled: whether its content was written.
        source: the object that the content is of, and what the store said of it; None if that is not known.
    """

    def __init__(self, parent: int, leaf: str, lock: int) -> None:
        self.number, self.filled = lock, False
        self.source: tuple[str, ObjectInfo] | None = None
        self._parent, self._leaf = parent, leaf
        self._open = threading.Lock()
        self._quiet = False
        os.ftruncate(lock, 0)  # what a killed process left

    def reserve(self, size: int) -> None:
        """Give the file its full size, on the disk as far as the file system can.

        Raises:
            OSError: ENOSPC, there is no room; the file is empty again.
        """
        os.ftruncate(self.number, size)
        try:
            _reserve_blocks(self.number, size)
        except OSError as error:
            if error.errno in FULL:
                os.ftruncate(self.number, 0)
                raise
            # The file system cannot reserve blocks: then a full disk shows while writing.

    def write(self, data: Buffer) -> None:
        """Write the whole content."""
        write_all(self.number, memoryview(data).cast("B"))
        self.filled = True

    def heartbeat(self) -> None:
        """Show waiting threads and processes that there is progress. For any thread, even when the file is done."""
        with self._open:
            if not self._quiet:
                os.utime(self.number)

    def publish(self, directory: Path, final: str, *, durable: bool = False) -> BinaryIO:
        """Rename the file to its name, `final` below `directory`, write its record, and return it open.

        Args:
            directory: the cache directory.
            final: its name.
            durable: whether its bytes have to be on the disk before it has its name.

        Raises:
            FileNotFoundError: it was removed, or given another name, while it was written.
            StoreFaultError: the disk could not write it.
        """
        path = directory / final
        with self._open:
            self._quiet = True  # its record has the time of its last write
        if self.source is not None and not may_be_rewritten_unseen(self.source[1]):
            name, info = self.source
            write_record(directory, final, os.fstat(self.number), name=name, info=info)
        name = partial_name(self._leaf)
        file = opened(path, lambda *_: os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._parent))
        try:
            if not same_file(now := os.fstat(self.number), self._parent, name) or not is_own(now):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            rename_whole(self.number, name, self._leaf, parent=self._parent, path=path, durable=durable)
        except BaseException:
            file.close()
            raise
        return file

    def close(self) -> None:
        """Release the lock; a file that was not published is removed."""
        with self._open:
            self._quiet = True
        name = partial_name(self._leaf)
        try:
            if same_file(os.fstat(self.number), self._parent, name):
                os.unlink(name, dir_fd=self._parent)
        finally:
            release(self.number)


@dataclass(frozen=True, kw_only=True)
class CacheFill:
    """One attempt to put a shard into a cache directory.

    Args:
        spec: of the shard.
        kept: its compressed file, if that is to be kept beside the raw one.
        directory: of the cache.
        need: steps until the plan needs the shard; 0 if a reader waits for it.
        wait: whether to wait for other threads and processes, and for room.
        timeout: seconds without progress after which a wait gives up.
        scarce: the disk was found to be full while this shard was written: its size has to be evicted in any case.
        partials: the files being written: the raw one, then the compressed one.
    """

    spec: ShardSpec
    kept: CompressedSpec | None
    directory: Path
    need: float
    wait: bool
    timeout: float
    scarce: bool = False
    partials: list[Partial] = field(default_factory=list)

    @property
    def has_begun(self) -> bool:
        """Whether its files were created; if a disk is full before, it lacks inodes and not bytes."""
        return len(self.partials) == (1 if self.kept is None else 2)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self.spec.size + (self.kept.size if self.kept is not None else 0)

    def heartbeat(self) -> None:
        """Show threads and processes that wait for this shard that there is progress."""
        if self.partials:
            self.partials[0].heartbeat()

    def reserve(self) -> bool:
        """Give the files their full sizes; False if the disk has no room for them."""
        try:
            for partial, spec in zip(self.partials, (self.spec, self.kept)):
                partial.reserve(spec.size if spec is not None else 0)
        except OSError as error:
            for partial in self.partials:
                partial.reserve(0)
            if error.errno not in FULL:
                raise
            return False
        return True


def opened(path: Path, opener: Callable[[str, int], int] | None = None) -> BinaryIO:
    """Return a file open for reading, with `path` as its name; a pipe does not block, and is an OSError."""
    return io.BufferedReader(io.FileIO(str(path), "rb", opener=opener or open_regular))


def opened_range(path: Path, begin: int, size: int) -> BinaryIO:
    """Return a range of a file, open as by `opened`."""
    return io.BufferedReader(FileRange(str(path), begin, size, opener=open_regular))


def _reserve_blocks(number: int, size: int) -> None:
    """Reserve the blocks of a file on the disk; OSError where that cannot be done.

    `os.posix_fallocate` is not used: where the file system cannot (NFS 3), it writes into every block, one by one.
    """
    fallocate = getattr(_LIBC, "fallocate", None)  # Linux
    if fallocate is None or not size:
        return
    while fallocate(number, 0, ctypes.c_int64(0), ctypes.c_int64(size)):
        if (why := ctypes.get_errno()) != errno.EINTR:
            raise OSError(why, os.strerror(why))
