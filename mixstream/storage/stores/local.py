"""A directory of local disk as a store: what `file://` and plain paths name.

Rules: an object that is there is whole (written aside, then renamed); nothing outside the directory is read or
written, whatever the name; a file's version is its inode, size and time, so a file that is replaced has another one.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mixstream.errors import (
    StoreAccessError,
    StoreChangedError,
    StoreError,
    StoreFaultError,
    StoreNotFoundError,
)
from mixstream.storage.store import ObjectBytes, ObjectInfo

_SUFFIX = ".partial"  # with a dot in front: what is being written, and no object


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
        with _explained(path, "read"), path.open("rb", buffering=0) as file:
            info = _info(os.fstat(file.fileno()))
            if version is not None and info.version != version:
                raise StoreChangedError(
                    f"{path}: the file is another one than before (version {info.version}, was {version}): "
                    "parts read so far are of no use; do not replace files of a dataset that is being read"
                )
            stop = info.size if end is None else end
            if not 0 <= begin <= stop <= info.size:
                raise StoreFaultError(
                    f"{path}: bytes {begin} to {stop} asked for, the file has {info.size}: it is truncated, or "
                    "belongs to another index; copy it again from its origin"
                )
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
            return _info(path.stat())

    def write(self, name: str, data: bytes | Path) -> None:
        """Write a file aside and rename it, so that it is there whole or not at all."""
        path = self._path(name)
        if isinstance(data, Path):
            with data.open("rb") as source:
                _write_aside(path, source)
        else:
            _write_aside(path, io.BytesIO(data))

    def names(self, *, limit: int | None = None) -> list[str]:
        """Return the names of all files below the directory, sorted, without those that are being written."""
        with _explained(self.directory, "list"):
            if not self.directory.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            return sorted(self._walk())[:limit]

    def remove(self, name: str) -> None:
        """Remove a file; none of that name is no error."""
        path = self._path(name)
        with _explained(path, "remove"):
            path.unlink(missing_ok=True)

    def renew(self) -> None:
        """Do nothing: a disk asks for no credentials."""

    def _path(self, name: str) -> Path:
        if not name or name.startswith("/") or "\0" in name or ".." in name.split("/"):
            raise StoreError(
                f"{name!r} is no name of a file below {self.directory}: nothing outside the directory is touched; "
                "names are relative and without '..'"
            )
        return self.directory / name

    def _walk(self) -> Iterator[str]:
        for parent, _, files in os.walk(self.directory):
            below = Path(parent).relative_to(self.directory)
            yield from (
                (below / file).as_posix() for file in files if not (file.startswith(".") and file.endswith(_SUFFIX))
            )


def _info(found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(size=found.st_size, version=f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}")


def _read_exactly(number: int, begin: int, end: int) -> bytes | bytearray:
    """Return [begin, end) of a file, less if it ends before: one `pread` returns 2 GiB at most."""
    data = os.pread(number, end - begin, begin)
    if len(data) in (0, end - begin):
        return data
    whole = bytearray(data)
    while len(whole) < end - begin and (data := os.pread(number, end - begin - len(whole), begin + len(whole))):
        whole += data
    return whole


def _write_aside(path: Path, source: BinaryIO) -> None:
    with _explained(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        number, aside = tempfile.mkstemp(prefix=f".{path.name[:128]}.", suffix=_SUFFIX, dir=path.parent)
        try:
            with os.fdopen(number, "wb") as file:
                os.fchmod(file.fileno(), 0o666 & ~_umask())
                shutil.copyfileobj(source, file, 1 << 20)
            Path(aside).replace(path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise


def _umask() -> int:
    """Return the mask that an ordinary `open` would apply; `mkstemp` applies a stricter one."""
    # os.umask can only be asked by setting it, for all threads at once; Linux shows it without.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o022


@contextmanager
def _explained(path: Path, act: str) -> Iterator[None]:
    """Turn what the operating system says into errors of the tree, keeping its number."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise _explain(error, path, act) from error


def _explain(error: OSError, path: Path, act: str) -> StoreError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
        kind, remedy = StoreNotFoundError, "check `remote`, `local` and `split`, and that the disk is mounted"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        kind, remedy = StoreAccessError, f"run as a user who may {act} it, or change its owner or mode (chown, chmod)"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        kind, remedy = StoreError, "make room on that disk, or choose another"
    else:  # EIO, ESTALE, ETIMEDOUT: what network disks say while their server is away
        kind, remedy = StoreFaultError, "look at the disk and its mount (dmesg, mount)"
    made = kind(
        f"{path}: could not {act} it: {reason} ({errno.errorcode.get(error.errno or 0, 'no number')}); {remedy}"
    )
    made.errno = error.errno
    return made
