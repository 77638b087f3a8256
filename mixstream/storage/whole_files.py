"""Files that are there whole or not at all, also after a power cut: how everything that mixstream writes gets its name.

Rules. A file is written under another name and renamed. For other processes, and after `kill -9`, that is enough. After
a power cut it is not: a disk may have kept the name and not the bytes. What is durable is therefore written in this
order: the bytes reach the disk, the file gets its name, the name reaches the disk. A file that says that others are
whole (an index, a manifest) is durable, and so is all that it names, before it. File systems that cannot sync (some
network mounts) are left to themselves, and so are directories that may be written to and not read, as those that many
users share; an error of the disk is raised, and the file does not get its name.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mixstream.errors import StoreFaultError

_CANNOT = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY})
_CANNOT_DIRECTORY = frozenset({errno.EBADF, errno.EISDIR, errno.EACCES, errno.EPERM})  # to open it, or to sync it
_FAULTS = frozenset({errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ETIMEDOUT})
PARTIAL = ".partial"


@contextmanager
def write_whole(path: Path, *, suffix: str = PARTIAL, names: bool = True) -> Iterator[BinaryIO]:
    """Yield a file to write, which has the name `path` once the block is done; after an error there is none.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as place:
    ...     with write_whole(Path(place, "rows.npy")) as file:
    ...         _ = file.write(b"123")
    ...         before = [path.name for path in Path(place).iterdir()]
    ...     before, [path.name for path in Path(place).iterdir()]
    (['rows.npy.partial'], ['rows.npy'])

    Args:
        path: of the file; what is there is replaced.
        suffix: behind its name while it is written.
        names: whether to wait until the directory has its name; without it, a power cut may leave the file that was
            there before, or none.

    Raises:
        StoreFaultError: the disk could not write it.
        OSError: it cannot be written.
    """
    unfinished = path.with_name(f"{path.name}{suffix}")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            sync(file.fileno(), path)
        unfinished.replace(path)
    except BaseException:  # on a full disk, it would take what room there is
        unfinished.unlink(missing_ok=True)
        raise
    if names:
        sync(path.parent)


def move_whole(unfinished: Path, path: Path, *, names: bool = True) -> None:
    """Give a file that was written under another name its own; `names` as of `write_whole`.

    Raises:
        StoreFaultError: the disk could not write it.
        OSError: it cannot be renamed.
    """
    sync(unfinished)
    unfinished.replace(path)
    if names:
        sync(path.parent)


def rename_whole(number: int, name: str, final: str, *, parent: int, path: Path, durable: bool) -> None:
    """Give an open file, `number`, that was written as `name` in the directory `parent` its name there.

    Args:
        number: descriptor of the file.
        name: its present name.
        final: its own.
        parent: descriptor of the directory.
        path: the file, for errors.
        durable: whether it survives a power cut.

    Raises:
        StoreFaultError: the disk could not write it.
        OSError: it cannot be renamed.
    """
    if durable:
        sync(number, path)
    os.rename(name, final, src_dir_fd=parent, dst_dir_fd=parent)
    if durable:
        sync(parent, path.parent)


def sync(place: Path | int, path: Path | None = None) -> None:
    """Wait until the bytes of a file, or the names in a directory, are on the disk.

    Args:
        place: it, or its descriptor.
        path: it, for errors.

    Raises:
        StoreFaultError: the disk could not write them.
        OSError: there is no such file, or (at last) no room for it.
    """
    try:
        number = place if isinstance(place, int) else os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if _cannot(error, place):
            return
        raise
    try:
        os.fsync(number)
    except OSError as error:
        if _cannot(error, place):
            return
        if error.errno not in _FAULTS:
            raise
        made = StoreFaultError(
            f"{path or place}: the disk could not write it ({os.strerror(error.errno)}, "
            f"{errno.errorcode[error.errno]}), so it does not count as written: look at the disk and its mount (dmesg, "
            "mount), then run the program again"
        )
        made.errno = error.errno
        raise made from error
    finally:
        if not isinstance(place, int):
            os.close(number)


def _cannot(error: OSError, place: Path | int) -> bool:
    """Return whether an error means that a place cannot be synced, and not that its disk has failed."""
    if error.errno in _CANNOT:
        return True
    return error.errno in _CANNOT_DIRECTORY and not isinstance(place, int) and place.is_dir()
