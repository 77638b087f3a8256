"""A directory of local disk as a store: what `file://` and plain paths name.

Rules: objects are whole, also after a power cut (`whole_files`); nothing outside the directory is read or written,
whatever the name, but through a link that lies in it; a file's version is its inode, size and time, so it changes when
the file is replaced.
"""

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mixstream.errors import StoreAccessError, StoreError, StoreFaultError, StoreNotFoundError
from mixstream.records import dataclass
from mixstream.storage.disk_errors import CROWDED, FULL, open_regular, shortage
from mixstream.storage.store import ObjectBytes, ObjectInfo, check_version, range_end
from mixstream.storage.whole_files import PARTIAL, move_whole

_LINKED = 2  # levels below the directory where links to directories are followed: domains, and their splits


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A directory of local disk, read in place; created when something is written to it."""

    directory: Path

    @property
    def url(self) -> str:
        """The directory."""
        return str(self.directory)

    def read(self, name: str, begin: int = 0, end: int | None = None, *, version: str | None = None) -> ObjectBytes:
        """Return the bytes [begin, end) of a file, by default all of it."""
        path = self._path(name)
        with _explained(path, "read"), open(path, "rb", buffering=0, opener=open_regular) as file:
            info = info_of(os.fstat(file.fileno()))
            check_version(str(path), info.version, version)
            stop = range_end(str(path), begin, end, info.size)
            data = _read_exactly(file.fileno(), begin, stop)
        if len(data) != stop - begin:
            raise StoreFaultError(f"{path}: it was cut to {begin + len(data)} bytes while it was read; was {info.size}")
        return ObjectBytes(data=data, info=info)

    def info(self, name: str) -> ObjectInfo:
        """Return the size and the version of a file."""
        path = self._path(name)
        with _explained(path, "look at"):
            if not path.is_file() and path.exists():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            return info_of(path.stat())

    def write(self, name: str, data: bytes | Path) -> None:
        """Write a file, durably: it is there whole or not at all. Until then its name begins with a dot."""
        path = self._path(name)
        with data.open("rb") if isinstance(data, Path) else io.BytesIO(data) as source, _explained(path, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{path.name[:128]}.{os.urandom(4).hex()}{PARTIAL}")
            file = aside.open("xb")
            try:
                with file:
                    shutil.copyfileobj(source, file, 1 << 20)
                move_whole(aside, path)
            except BaseException:
                aside.unlink(missing_ok=True)
                raise

    def names(self, *, limit: int | None = None) -> list[str]:
        """Return the names of all files below the directory, sorted, without those that are being written."""
        with _explained(self.directory, "list"):
            if not self.directory.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            return sorted(self._walk())[:limit]

    def remove(self, name: str) -> None:
        """Remove a file; it is no error if there is none."""
        path = self._path(name)
        with _explained(path, "remove"):
            path.unlink(missing_ok=True)

    def renew(self) -> None:
        """Do nothing: a disk needs no credentials."""

    def _path(self, name: str) -> Path:
        if not name or name.startswith("/") or "\0" in name or ".." in name.split("/"):
            raise StoreError(
                f"{name!r} is not a valid name for a file below {self.directory}: nothing outside the directory is "
                "touched; names are relative and without '..'"
            )
        return self.directory / name

    def _walk(self, levels: int = _LINKED) -> Iterator[str]:
        for parent, directories, files in os.walk(self.directory, onerror=_unlisted):
            below = Path(parent).relative_to(self.directory)
            yield from (
                (below / file).as_posix() for file in files if not (file.startswith(".") and file.endswith(PARTIAL))
            )
            for name in directories if len(below.parts) < levels else ():
                yield from self._linked(below / name, levels)

    def _linked(self, below: Path, levels: int) -> Iterator[str]:
        """The names behind a link to a directory: a domain, or its split, that lies elsewhere."""
        place = self.directory / below
        if not place.is_symlink() or below.name.startswith("."):
            return
        target, here = place.resolve(), self.directory.resolve()
        if here != target and not here.is_relative_to(target):  # it leads around in a circle otherwise
            names = LocalStore(target)._walk(levels - len(below.parts))
            yield from ((below / name).as_posix() for name in names)


def _unlisted(error: OSError) -> None:
    """Raise what a directory below refused: without what is in it, a listing would be short without a word."""
    if error.errno != errno.ENOENT and not error.filename.endswith("/lost+found"):  # removed meanwhile; only root's
        raise _explain(error, Path(error.filename), "list")


def info_of(found: os.stat_result) -> ObjectInfo:
    """Return size, version and time of a file."""
    version = f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"
    return ObjectInfo(size=found.st_size, version=version, modified=found.st_mtime_ns / 1e9)


def without_inode(info: ObjectInfo) -> ObjectInfo:
    """Return a description of a file that is that of its copies of the same time too, on any disk.

    >>> without_inode(ObjectInfo(size=16, version="2f-10-17d3a", modified=9.75e-5)).version
    '10-17d3a'
    """
    version = info.version.partition("-")[2] if info.version is not None else None
    return ObjectInfo(size=info.size, version=version, modified=info.modified)


def _read_exactly(number: int, begin: int, end: int) -> bytes | bytearray:
    """Return [begin, end) of a file, less if it ends before: one `pread` returns 2 GiB at most."""
    data = os.pread(number, end - begin, begin)
    if len(data) in (0, end - begin):
        return data
    whole = bytearray(data)
    while len(whole) < end - begin and (data := os.pread(number, end - begin - len(whole), begin + len(whole))):
        whole += data
    return whole


@contextmanager
def _explained(path: Path, act: str) -> Iterator[None]:
    """Turn an OSError into an error of `mixstream.errors`, with its number."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise _explain(error, path, act) from error


def _explain(error: OSError, path: Path, act: str) -> StoreError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ENXIO, errno.ELOOP):
        kind, remedy = StoreNotFoundError, "check `remote`, `local` and `split`, and that the disk is mounted"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        kind, remedy = StoreAccessError, f"run as a user who may {act} it, or change its owner or mode (chown, chmod)"
    elif error.errno in FULL:
        kind, remedy = StoreError, shortage(path)
    elif error.errno in CROWDED:
        kind, remedy = StoreError, "raise the number of files that may be open (`ulimit -n`), or use fewer workers"
    else:  # EIO, ESTALE, ETIMEDOUT: a network disk whose server is away
        kind, remedy = StoreFaultError, "look at the disk and its mount (dmesg, mount)"
    made = kind(
        f"{path}: could not {act} it: {reason} ({errno.errorcode.get(error.errno or 0, 'no number')}); {remedy}"
    )
    made.errno = error.errno
    return made
