"""Lock files: threads and processes of a machine take turns by `flock`, and a killed process leaves no lock behind.

Rules: a lock is on an open file description, so threads exclude each other as processes do, and the system releases it
when the process exits. A lock counts only while its name still leads to the locked inode. Nothing below a cache
directory is reached or written through a symbolic link in it. A forked child does not keep its parent's locks, which
would otherwise outlive the parent. Nothing here waits.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mixstream.errors import ConfigError, MixstreamError, StoreAccessError, StoreError
from mixstream.lazy import later
from mixstream.storage.disk_errors import CROWDED, FORBIDDEN, IMPOSSIBLE, disk_error
from mixstream.storage.forks import ProcessLocal, unforked

if TYPE_CHECKING:
    from mixstream.storage.cache.holders import holder_of
else:
    (holder_of,) = later("mixstream.storage.cache.holders", "holder_of")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_FLOCK = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, *CROWDED)
_TRIES = 3  # to create a directory, which others may be removing


def _close_inherited(numbers: set[int]) -> None:
    for number in numbers:
        os.close(number)


_held: ProcessLocal[set[int]] = ProcessLocal(set, _close_inherited)  # descriptors


@contextmanager
def parent_of(directory: Path, name: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
    """Yield a descriptor of the directory that holds `directory / name`, and the last part of the name.

    What stands in the way of that file, there or in the block, is named: a directory in its place, a name too long.

    Args:
        directory: reached as the system does, symbolic links included.
        name: relative; no part of it is followed if it is a symbolic link.
        create: create the directories that do not exist.

    Raises:
        FileNotFoundError: a directory does not exist.
        StoreAccessError: a part of the name is a symbolic link, or not a directory.
        StoreError: the directory, or the file, cannot be there, or no descriptor is left.
    """
    *parts, leaf = name.split("/")
    at = directory
    try:
        if create:
            _make(directory)
        number = os.open(directory, _DIRECTORY)
        at /= name
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
    except OSError as error:
        named = _IN_THE_WAY if at != directory else (*_IN_THE_WAY, *IMPOSSIBLE)
        if isinstance(error, MixstreamError) or error.errno not in named:
            raise
        # What is in the way may have another name than the file, such as that of its partial, or that it is to get.
        own = next((name for name in (error.filename2, error.filename) if isinstance(name, str)), at.name)
        raise disk_error(error, at.parent / own, "create or open") from error


def _make(directory: Path) -> None:
    """Create a directory and those above it."""
    for left in reversed(range(_TRIES)):
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:
            if not left:
                raise disk_error(error, directory, "create") from error
        else:
            return


def try_lock(parent: int, name: str) -> int | None:
    """Return a descriptor of the file `name` in the directory `parent`, locked; None if it is locked already.

    The file is created if it does not exist. A link of either kind, a pipe, socket or device under that name is
    removed, never written through.

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


def holder(parent: int, name: str) -> str:
    """Return who holds the lock of the file `name` in the directory `parent`, in words; empty if not known."""
    try:
        return holder_of(os.stat(name, dir_fd=parent, follow_symlinks=False))
    except OSError:
        return ""


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
            f"{directory / name}: {part!r} in it is a symbolic link or not a directory, and nothing is read or written "
            f"through one; remove it, or pass another `local` than {directory}"
        ) from error
