"""Files of a cache directory that are its own: regular files with one name, reached through no link below it.

Rules: what has another name may be changed under that name, and what lies behind a link belongs to another place. So
neither is believed: a shard is fetched again, a note counts as not there, and what is written replaces the link and
never its target. This is asked of the open file, whose name may lead elsewhere a moment later. The directory itself may
be a link. Nothing blocks on a pipe.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from mixstream.storage.cache.locks import parent_of

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
LINKED = {errno.ELOOP: "a symbolic link", errno.EMLINK: "a file with other names (hard links)"}
"""What is no file of the cache's own, by the number of the error that `open_own` raises."""


def open_own(directory: Path, name: str) -> int:
    """Return a descriptor of a file of a cache directory, open for reading.

    Raises:
        FileNotFoundError: there is none.
        OSError: it is not the cache's own; ENXIO: it is a pipe, socket or device; ELOOP, EMLINK: as `LINKED` says.
        StoreAccessError: a directory on the way is a symbolic link.
        StoreError: it is a directory, or its name cannot be that of a file.
    """
    with parent_of(directory, name) as (parent, leaf):
        number = os.open(leaf, _READ | os.O_NOFOLLOW, dir_fd=parent)
        if why := _refused(os.fstat(number)):
            os.close(number)
            raise OSError(why, os.strerror(why), leaf)
        return number


def read_own(directory: Path, name: str) -> bytes | None:
    """Return the content of a small file of a cache directory; None if it is not there, not its own, or unreadable."""
    with suppress(OSError), os.fdopen(open_own(directory, name), "rb") as file:
        return file.read()
    return None


def read_any(path: Path) -> bytes | None:
    """Return the content of a small file, whatever links lead to it; None if it is not there, or no file."""
    with suppress(OSError), os.fdopen(os.open(path, _READ), "rb") as file:
        return file.read() if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    return None


def open_to_write(parent: int, leaf: str) -> int:
    """Return a descriptor of the file `leaf` in the directory `parent`, open for writing; created if need be.

    What is not the cache's own file is removed, and a new file made; what a link leads to is left as it is.
    """
    for left in (True, False):
        try:
            number = os.open(leaf, _WRITE, 0o666, dir_fd=parent)
        except OSError as error:
            if not left or error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
        else:
            if is_own(os.fstat(number)):
                return number
            os.close(number)
        with suppress(FileNotFoundError):
            os.unlink(leaf, dir_fd=parent)
    raise OSError(errno.EMLINK, os.strerror(errno.EMLINK), leaf)


def is_own(found: os.stat_result) -> bool:
    """Return whether the status of a file, links not followed, is that of a cache's own."""
    return not _refused(found)


def _refused(found: os.stat_result) -> int:
    """Return the number of the error for a file that is not the cache's own; 0 if it is."""
    if stat.S_ISDIR(found.st_mode):
        return errno.EISDIR
    if not stat.S_ISREG(found.st_mode):
        return errno.ENXIO
    return errno.EMLINK if found.st_nlink > 1 else 0
