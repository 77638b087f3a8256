"""What a local disk refuses, as errors that name the path, the shortage and the remedy.

Rules: an error of the system becomes one of `mixstream.errors` and keeps its number. A disk that is full says of what:
bytes, or inodes (each file takes one, whatever its size), or neither (a quota).
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mixstream.errors import (
    ConfigError,
    MixstreamError,
    StoreAccessError,
    StoreError,
    StoreFaultError,
    StoreNotFoundError,
)

FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
FULL = (errno.ENOSPC, errno.EDQUOT)
CROWDED = (errno.EMFILE, errno.ENFILE)  # no descriptor is left, of the process or of the machine
IMPOSSIBLE = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO)  # such a path


def is_full(error: OSError) -> bool:
    """Return whether an error is that of a full disk, as the system raised it."""
    return error.errno in FULL and not isinstance(error, MixstreamError)


def out_of_inodes(place: Path) -> bool:
    """Return whether the file system of a place, which need not exist, has inodes and none is left."""
    found = _statvfs(place)
    return found is not None and found.f_files > 0 and found.f_favail == 0


def shortage(place: Path, size: int | None = None) -> str:
    """Return what the disk of a place lacks, and what to do: a part of a sentence.

    Args:
        place: a path on the disk, which need not exist.
        size: bytes that were wanted; None if that is not known.
    """
    if (found := _statvfs(place)) is None:
        return "the disk is full; make room there, or use another"
    free = found.f_bavail * found.f_frsize
    if found.f_files > 0 and found.f_favail == 0:
        return (
            f"no inodes are left on the disk ({found.f_favail} of {found.f_files} free, and each file takes one; "
            f"{free} bytes are free, which does not help); remove files there, small ones too (`df -i` shows it), or "
            "use another disk"
        )
    if free < (size or 1):
        return f"the disk has {free} free; free {size or 'some'} bytes there, or use a larger disk"
    return (
        f"the disk has {free} bytes and {found.f_favail} inodes free now: a quota of this user or directory may be "
        "used up (`quota -s` shows it), or room has come since; raise it, remove files there, or use another disk"
    )


def disk_error(error: OSError, path: Path, act: str) -> StoreError:
    """Return the error for what the system refused to do.

    Args:
        error: as the system raised it.
        path: what was to be done something with.
        act: what: "write", "read".
    """
    number, reason = error.errno or 0, os.strerror(error.errno or 0)
    kind, fact = StoreError, f"{path}: could not {act} it: {reason} ({errno.errorcode.get(number, 'no number')})"
    if number in FULL:
        fact += f": {shortage(path)}"
    elif number in CROWDED:
        fact += "; raise the number of files that may be open (`ulimit -n`), or use fewer workers"
    elif number in FORBIDDEN:
        kind, fact = StoreAccessError, f"{fact}; run as a user who may {act} it, or give another directory"
    elif number == errno.ENAMETOOLONG:
        long = max(len(os.fsencode(part)) for part in path.parts)
        fact += f"; it has {len(os.fsencode(path))} bytes, and a name of {long} in it: give shorter names"
    elif number in IMPOSSIBLE:
        fact += f"; {_obstacle(path)}; remove it, or give another directory"
    elif number == errno.ENOENT:
        kind, fact = StoreNotFoundError, f"{fact}; a directory above it cannot be made, or was removed: give another"
    else:
        kind, fact = StoreFaultError, f"{fact}; look at the disk and its mount (dmesg, mount)"
    made = kind(fact)
    made.errno = error.errno
    for note in getattr(error, "__notes__", ()):
        made.add_note(note)
    return made


def check_directory(path: Path, name: str) -> Path:
    """Return a path at which a directory is or may be made; nothing is made.

    Args:
        path: absolute.
        name: of the argument that gave it, for the error.

    Raises:
        ConfigError: it is a file, a pipe or the like, below one, or too long for the disk.
    """
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return path
    except OSError as error:
        if error.errno not in IMPOSSIBLE:
            return path  # such as one that may not be looked at: what is done there says so
        why = _obstacle(path) if error.errno != errno.ENAMETOOLONG else "its name is too long for that disk"
        raise ConfigError(f"{name}={str(path)!r} cannot be a directory: {why}; give another directory") from error
    if not stat.S_ISDIR(kind):
        what = "file" if stat.S_ISREG(kind) else "pipe, socket or device"
        raise ConfigError(f"{name}={str(path)!r} is a {what}; pass a directory")
    return path


@contextmanager
def named_disk_errors(path: Path, act: str) -> Iterator[None]:
    """Raise what the system refuses in the block as `disk_error` has it.

    >>> with named_disk_errors(Path("/dev/null/rows.npy"), "write"):
    ...     Path("/dev/null/rows.npy").write_bytes(b"")
    Traceback (most recent call last):
    mixstream.errors.StoreError: /dev/null/rows.npy: could not write it: Not a directory (ENOTDIR); /dev/null is no \
directory; remove it, or give another directory
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, MixstreamError):
            raise
        raise disk_error(error, path, act) from error


@contextmanager
def named_full_disk(path: Path) -> Iterator[None]:
    """Raise the error of a full disk in the block, which writes a file, as `disk_error` has it; others as they are.

    For blocks that also do other things, and for libraries whose errors do not name the file.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise disk_error(error, path, "write") from error


def open_regular(path: str, flags: int) -> int:
    """Open a file, as the `opener` of `open`: a pipe neither blocks nor is read, nor is a device.

    Raises:
        OSError: ENXIO: it is a pipe, socket or device; or what the system says.
    """
    number = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(kind := os.fstat(number).st_mode) or stat.S_ISDIR(kind):  # of which `open` says that it is one
        return number
    os.close(number)
    raise OSError(errno.ENXIO, "it is a pipe, socket or device, and no file", path)


def other_than_file(path: Path) -> str:
    """Return what is at a path that should be a file's, in words; empty if it is one, or nothing is there.

    >>> other_than_file(Path("/dev/zero")), other_than_file(Path("/")), other_than_file(Path("/nowhere"))
    ('a device, not a regular file', 'a directory, not a regular file', '')
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError) as error:
        with suppress(OSError, ValueError):
            if getattr(error, "errno", None) in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) and path.is_symlink():
                return f"a symbolic link to {path.readlink()}, which leads to no file"
        return ""
    return "" if kind == stat.S_IFREG else f"{_KINDS.get(kind, 'a device')}, not a regular file"


_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}


def _obstacle(path: Path) -> str:
    """Return what stands where a path should lead."""
    for place in (*reversed(path.parents), path):
        with suppress(OSError, ValueError):
            if place.is_symlink() and not place.exists():
                return f"{place} is a symbolic link that leads nowhere"
            if place != path and place.exists() and not place.is_dir():
                return f"{place} is no directory"
            if place == path and (found := other_than_file(path)):
                return f"{place} is {found.partition(',')[0]}"
    return "something is in its place"


def _statvfs(place: Path) -> os.statvfs_result | None:
    for above in (place, *place.parents):
        with suppress(OSError, ValueError):
            return os.statvfs(above)
    return None
