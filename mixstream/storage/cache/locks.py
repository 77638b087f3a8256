"""Lock files: threads and processes of a machine take turns by `flock`, and a killed process leaves no lock behind.

Rules: a lock is on an open file description, so threads exclude each other as processes do, and the system releases it
when the process exits. A lock counts only while its name still leads to the locked inode. Nothing below a cache
directory is reached or written through a symbolic link in it. A forked child does not keep its parent's locks, which
would otherwise outlive the parent. No wait is unbounded.
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mixstream.errors import ConfigError, StoreAccessError, StoreError, WaitTimeoutError
from mixstream.storage.forks import ProcessLocal, unforked

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_FLOCK = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
FULL = (errno.ENOSPC, errno.EDQUOT)


def _close_inherited(numbers: set[int]) -> None:
    for number in numbers:
        os.close(number)


_held: ProcessLocal[set[int]] = ProcessLocal(set, _close_inherited)  # descriptors


@contextmanager
def parent_of(directory: Path, name: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
    """Yield a descriptor of the directory that holds `directory / name`, and the last part of the name.

    Args:
        directory: reached as the system does, symbolic links included.
        name: relative; no part of it is followed if it is a symbolic link.
        create: create the directories that do not exist.

    Raises:
        FileNotFoundError: a directory does not exist.
        StoreAccessError: a part of the name is a symbolic link, or not a directory.
    """
    *parts, leaf = name.split("/")
    if create:
        directory.mkdir(parents=True, exist_ok=True)
    number = os.open(directory, _DIRECTORY)
    try:
        for part in parts:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=number)
            below = _open_part(number, part, directory, name)
            os.close(number)
            number = below
        yield number, leaf
    finally:
        os.close(number)


def try_lock(parent: int, name: str) -> int | None:
    """Return a descriptor of the file `name` in the directory `parent`, locked; None if it is locked already.

    The file is created if it does not exist. A link of either kind or a pipe under that name is removed, never written
    through.

    Raises:
        ConfigError: the file system has no `flock`.
    """
    for _ in range(1000):
        try:
            number = _open_to_lock(name, os.O_CREAT, parent)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
            os.unlink(name, dir_fd=parent)
            continue
        if not _flock(number):
            release(number)
            return None
        mine = os.fstat(number)
        if same_file(mine, parent, name):
            if stat.S_ISREG(mine.st_mode) and mine.st_nlink == 1:
                return number
            os.unlink(name, dir_fd=parent)
        release(number)
    raise StoreError(
        f"{name}: removed by others a thousand times in a row; end the program that deletes files in the cache "
        "directory"
    )


def release(number: int) -> None:
    """Close a descriptor, and so release its lock. Release each once: its number may be another file's afterwards."""
    try:
        _held.value.remove(number)
    except KeyError:  # in a forked child, where it is closed already
        return
    try:
        fcntl.flock(number, fcntl.LOCK_UN)  # closing is not enough if a child was forked a moment ago
    finally:
        os.close(number)


def remove_if_dead(parent: int, name: str) -> bool:
    """Remove a file that is not locked: its process was killed. Return whether it is gone."""
    try:
        number = _open_to_lock(name, 0, parent)
    except OSError:  # it is not a file, or is gone
        return False
    try:
        if not _flock(number) or not same_file(os.fstat(number), parent, name):
            return False
        try:
            os.unlink(name, dir_fd=parent)
        except OSError as error:
            if error.errno not in (*FORBIDDEN, errno.ENOENT):
                raise
            return error.errno == errno.ENOENT
        return True
    finally:
        release(number)


def same_file(mine: os.stat_result, parent: int, name: str) -> bool:
    """Return whether `name` in the directory `parent` still is the file whose status is `mine`."""
    try:
        now = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino)


class StallTimeout:
    """A wait that goes on while what it waits for makes progress, and gives up when that has stalled for too long.

    Args:
        seconds: without progress, after which it gives up.
        what: what is waited for, what may hold it, and what to do: the text of the error.
    """

    def __init__(self, seconds: float, what: str) -> None:
        self._seconds, self._what = seconds, what
        self._mark: object = None
        self._since = time.monotonic()
        self._nap = 0.002

    def pause(self, mark: object) -> None:
        """Sleep a little; `mark` is anything that changes when there is progress.

        Raises:
            WaitTimeoutError: `mark` has not changed for `seconds`.
        """
        now = time.monotonic()
        if mark != self._mark:
            self._mark, self._since = mark, now
        if now - self._since > self._seconds:
            raise WaitTimeoutError(f"gave up after {self._seconds:.0f} s without progress, waiting for {self._what}")
        time.sleep(self._nap)
        self._nap = min(self._nap * 1.5, 0.03)


def forbidden(error: OSError, directory: Path, what: str) -> StoreAccessError:
    """Return the error for a directory that may not be written: it is read-only, or another user's."""
    made = StoreAccessError(
        f"{directory} cannot be written ({os.strerror(error.errno or 0)}), which is needed to {what}; "
        "pass a `local` directory that this user may write, or fill this one beforehand"
    )
    made.errno = error.errno
    return made


def _open_to_lock(name: str, flags: int, parent: int) -> int:
    flags |= os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with unforked():  # a child forked in between would keep the descriptor open, and the lock with it
        number = os.open(name, flags, 0o666, dir_fd=parent)
        _held.value.add(number)
        return number


def _flock(number: int) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        raise ConfigError(
            f"the file system of the cache directory has no flock ({os.strerror(error.errno or 0)}), and without it "
            "processes would corrupt each other's files; pass a `local` directory on a disk of this machine"
        ) from error
    return True


def _open_part(parent: int, part: str, directory: Path, name: str) -> int:
    try:
        return os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise StoreAccessError(
            f"{directory / name}: {part!r} in it is a symbolic link or not a directory, and nothing is written through "
            f"one; remove it, or pass another `local` than {directory}"
        ) from error
