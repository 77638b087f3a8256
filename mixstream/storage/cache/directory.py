"""One cache directory: files that appear whole or not at all, each made once however many want it.

Rules: a file is written as `.{name}.partial` by whoever holds that partial's lock, and renamed over its name while the
lock is held; so what stands under a name is whole, and what a killed process leaves is known by its free lock and
written over, or removed (`Listing`). A partial takes its full size before its first byte is asked for: that is its
place in the budget and on the disk. Whoever waits for another's partial waits as long as it is being written to.
A file is handed out open: what is evicted afterwards stays readable for those who have it.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mixstream.errors import MixstreamError, StoreAccessError, StoreError
from mixstream.storage.cache.contents import partial_name
from mixstream.storage.cache.limit import Budget, Claim, disk_full
from mixstream.storage.cache.locks import FORBIDDEN, FULL, Patience, forbidden, parent_of, release, same_file, try_lock

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12 on

_CHUNK = 64 << 20  # bytes; one write takes 2 GiB at most, and others see by it that something moves
_LIBC = ctypes.CDLL(None, use_errno=True)
_TRIES = 3  # when the disk turns out to be full, or the directory is cleared, while a file is written


class Partial:
    """A file that is being written; its lock is held. Made by `Cache`.

    Attributes:
        number: descriptor of the file, at its full size once `reserve` was called.
        filled: whether its content was written.
    """

    def __init__(self, parent: int, leaf: str, lock: int) -> None:
        self.number, self.filled = lock, False
        self._parent, self._leaf = parent, leaf
        self._open = threading.Lock()
        self._closed = False
        os.ftruncate(lock, 0)  # what a killed process left

    def reserve(self, size: int) -> None:
        """Give the file its full size, on the disk as far as the file system can.

        Raises:
            OSError: ENOSPC, there is no room; the file is empty again.
        """
        os.ftruncate(self.number, size)
        try:
            _set_aside(self.number, size)
        except OSError as error:
            if error.errno in FULL:
                os.ftruncate(self.number, 0)
                raise
            # The file system cannot: then a full disk shows while writing.

    def write(self, data: Buffer) -> None:
        """Write the whole content."""
        rest, done = memoryview(data).cast("B"), 0
        while done < len(rest):
            done += os.pwrite(self.number, rest[done : done + _CHUNK], done)
        self.filled = True

    def beat(self) -> None:
        """Show whoever waits that something moves. Any thread may call it, even when the file is done."""
        with self._open:
            if not self._closed:
                os.utime(self.number)

    def publish(self, path: Path) -> BinaryIO | None:
        """Give the file its name, which is that of `path`; return it open, or None if somebody has removed it."""
        name = partial_name(self._leaf)
        try:
            file = opened(path, lambda *_: os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._parent))
            if same_file(os.fstat(self.number), self._parent, name):
                os.rename(name, self._leaf, src_dir_fd=self._parent, dst_dir_fd=self._parent)
                return file
        except FileNotFoundError:
            return None
        file.close()
        return None

    def close(self) -> None:
        """Give up the lock; what has no name yet is removed."""
        with self._open:
            self._closed = True
        name = partial_name(self._leaf)
        try:
            if same_file(os.fstat(self.number), self._parent, name):
                os.unlink(name, dir_fd=self._parent)
        finally:
            release(self.number)


@dataclass(frozen=True, kw_only=True)
class Errand:
    """A file to be made.

    Args:
        name: below the cache directory.
        size: bytes.
        beside: further files that the same act makes: name -> bytes.
        there: returns the file, open, if it is there by now and good; None otherwise.
        produce: fills the first partial, and in their order those of `beside`; what of these it leaves is dropped.
        need: steps until the plan needs it; 0 if somebody waits.
        wait: whether to wait for others and for room.
    """

    name: str
    size: int
    beside: tuple[tuple[str, int], ...] = ()
    there: Callable[[], BinaryIO | None]
    produce: Callable[[list[Partial]], None]
    need: float = 0.0
    wait: bool = True


@dataclass(frozen=True, kw_only=True)
class Cache:
    """A directory that is filled, by any number of threads and processes.

    Args:
        directory: created when something is written; without symbolic links in its path.
        budget: says whether there is room.
        patience: seconds of standstill after which a wait for others gives up.
    """

    directory: Path
    budget: Budget
    patience: float

    def find(self, name: str) -> BinaryIO | None:
        """Return the file of that name, open, and note that it is used; None if there is none."""
        try:
            file = opened(self.directory / name)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE):
                return None
            if error.errno in FORBIDDEN:
                raise _unreadable(error, self.directory / name) from error
            if error.errno == errno.EISDIR:
                raise StoreError(
                    f"{self.directory / name} is a directory where a shard belongs; remove it, or pass another `local` "
                    "directory"
                ) from error
            raise
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            file.close()
            return None
        if self.directory in self.budget:
            with suppress(OSError):  # somebody else's file
                os.utime(file.fileno(), ns=(time.time_ns(), found.st_mtime_ns))
        return file

    def make(self, errand: Errand) -> BinaryIO | None:
        """Return the file of an errand, open, made by this thread or by another.

        None, without `errand.wait`: somebody else is at it, or there is no room now.

        Raises:
            CacheFullError: the limit or the disk is too small.
            StoreAccessError: the directory may not be written.
            ConfigError: its file system has no `flock`.
            WaitTimeoutError: whoever else makes it stands still.
            Exception: what `errand.produce` raises.
        """
        scarce = False
        for _ in range(_TRIES):
            try:
                return self._make(errand, scarce=scarce)
            except _RemovedError:
                continue
            except OSError as error:
                if isinstance(error, MixstreamError):
                    raise
                if error.errno == errno.ENOENT:
                    continue  # the directory is being removed
                if error.errno in FORBIDDEN:
                    raise forbidden(error, self.directory, f"fetch {errand.name}") from error
                if error.errno not in FULL:
                    raise
                if scarce:
                    raise disk_full(errand.name, self.directory, errand.size) from error
                scarce = True
        raise StoreError(
            f"{self.directory / errand.name} was removed {_TRIES} times while it was written; end what deletes files "
            "in that directory, or pass another `local`"
        )

    def _make(self, errand: Errand, *, scarce: bool) -> BinaryIO | None:
        with ExitStack() as stack:
            main = self._begin(errand, errand.name, stack)
            if not isinstance(main, Partial):
                return main
            if (file := errand.there()) is not None:
                return file
            partials = [main]
            for name, _ in errand.beside:
                partial = self._begin(errand, name, stack)
                if not isinstance(partial, Partial):
                    return partial
                partials.append(partial)
            sizes = [errand.size, *(size for _, size in errand.beside)]
            claim = Claim(
                name=errand.name,
                directory=self.directory,
                size=sum(sizes),
                take=lambda: _reserve(partials, sizes),
                need=errand.need,
                wait=errand.wait,
                patience=self.patience,
                beat=main.beat,
                scarce=scarce,
            )
            if not self.budget.claim(claim):
                return None
            errand.produce(partials)
            for partial, (name, _) in zip(partials[1:], errand.beside):
                if partial.filled:
                    self._publish(partial, name).close()
            return self._publish(main, errand.name)

    def _begin(self, errand: Errand, name: str, stack: ExitStack) -> Partial | BinaryIO | None:
        """Return the partial of a file, locked; or, if somebody else has it, what he makes or None."""
        parent, leaf = stack.enter_context(parent_of(self.directory, name, create=True))
        patience = Patience(
            self.patience,
            f"{self.directory / name}, which another thread or process is fetching; it hangs: end it, and another will "
            "take its place",
        )
        while (lock := try_lock(parent, partial_name(leaf))) is None:
            if (file := errand.there()) is not None or not errand.wait:
                return file
            patience.pause(_mark(parent, partial_name(leaf)))
        partial = Partial(parent, leaf, lock)
        stack.callback(partial.close)
        return partial

    def _publish(self, partial: Partial, name: str) -> BinaryIO:
        file = partial.publish(self.directory / name)
        if file is None:
            raise _RemovedError
        return file


class _RemovedError(Exception):
    """Somebody removed what was being written."""


def opened(path: Path, opener: Callable[[str, int], int] | None = None) -> BinaryIO:
    """Return a file open for reading, under its path as its name; a pipe does not block."""
    opener = opener or (lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    return io.BufferedReader(io.FileIO(str(path), "rb", opener=opener))


def _unreadable(error: OSError, path: Path) -> StoreAccessError:
    made = StoreAccessError(
        f"{path} is there and cannot be read ({os.strerror(error.errno or 0)}): another user may have put it there for "
        "himself alone; let him open it to others (chmod -R a+rX), or pass another `local` directory"
    )
    made.errno = error.errno
    return made


def _set_aside(number: int, size: int) -> None:
    """Take the blocks of a file on the disk; OSError where that cannot be done.

    `os.posix_fallocate` will not do: where the file system cannot (NFS 3), it writes into every block, one by one.
    """
    fallocate = getattr(_LIBC, "fallocate", None)  # Linux
    if fallocate is None or not size:
        return
    while fallocate(number, 0, ctypes.c_int64(0), ctypes.c_int64(size)):
        if (why := ctypes.get_errno()) != errno.EINTR:
            raise OSError(why, os.strerror(why))


def _reserve(partials: list[Partial], sizes: list[int]) -> None:
    try:
        for partial, size in zip(partials, sizes):
            partial.reserve(size)
    except OSError:
        for partial in partials:
            partial.reserve(0)
        raise


def _mark(parent: int, name: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
