"""The files of one dataset: its index, and every shard as a raw file on local disk.

What lives here: where a file is, and making it be there. Rules: a file that is not whole has a temporary name, so what
stands under a shard's name can be trusted or replaced; nothing is ever written outside the local directory.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2s
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError, IndexNotFoundError, ShardCorruptError, ShardNotFoundError

INDEX = "index.json"


def local_path(location: str) -> Path:
    """Return the local path that `location` (a path or a file:// URL) names.

    Raises:
        ConfigError: it names another kind of storage.
    """
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if "://" in location:
        raise ConfigError(
            f"{location!r}: this version of mixstream reads local paths and file:// URLs, not {parts.scheme}://; "
            "copy the dataset to a local directory first"
        )
    return Path(location)


def map_file(path: Path) -> NDArray[np.uint8]:
    """Return the bytes of a file, uint8 [bytes], mapped and read-only; unmapped when the last view is gone.

    Python's own mmap keeps a descriptor open for every mapping, and a run has thousands of shards.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return np.empty(0, dtype=np.uint8)
        address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)}; could not map {size} bytes", str(path))
    memory = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(memory, _LIBC.munmap, address, size).atexit = False  # threads may still read at exit
    data = np.frombuffer(memoryview(memory), dtype=np.uint8)
    data.flags.writeable = False
    return data


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


@dataclass(frozen=True, kw_only=True)
class DatasetFiles:
    """One dataset's directory on local disk, and where it is filled from.

    Args:
        local: directory that holds raw shards; created when something has to be written there.
        remote: directory with the original files, or None when `local` is all there is. The two may be the same.
    """

    local: Path
    remote: Path | None = None

    @classmethod
    def locate(cls, *, remote: str | None, local: str | None, split: str | None) -> DatasetFiles:
        """Return the files of a stream. Without `local`, shards are read in place and unpacked below the temp dir."""
        origin = local_path(remote) / (split or "") if remote is not None else None
        if local is not None:
            return cls(local=local_path(local) / (split or ""), remote=origin)
        if origin is None or remote is None:
            raise ConfigError("`remote` and/or `local` path must be provided")
        # A dataset made anew under the same path must not meet the old one's unpacked shards.
        index = origin / INDEX
        stamp = f"{origin.resolve()}:{index.stat().st_mtime_ns if index.is_file() else 0}"
        key = blake2s(stamp.encode(), digest_size=16).hexdigest()
        return cls(local=Path(tempfile.gettempdir()) / f"mixstream-{os.getuid()}" / key, remote=origin)

    def describe(self) -> str:
        """Return the place that a user would look at."""
        return str(self.remote if self.remote is not None else self.local)

    def read_index(self) -> tuple[bytes, str]:
        """Return the bytes of `index.json` and where they were read."""
        for directory in (self.remote, self.local):
            if directory is not None and (path := directory / INDEX).is_file():
                return path.read_bytes(), str(path)
        place = Path(self.describe())
        if not place.is_dir():
            raise IndexNotFoundError(
                f"no {INDEX} in {place}: there is no such directory; check `remote`, `local`, `split`"
            )
        below = sorted(path.parent.name for path in place.glob(f"*/{INDEX}"))
        hint = f"; there is one in its sub-directories {below}: pass it as `split`" if below else ""
        raise IndexNotFoundError(
            f"no {INDEX} in {place}: not an MDS dataset, or an unfinished one; check `remote`, `local`, `split`{hint}"
        )

    def find(self, basename: str, size: int) -> Path | None:
        """Return the path of a file that is there with exactly `size` bytes.

        Raises:
            ShardCorruptError: the original has another size.
            ConfigError: the local directory is filled from another dataset.
        """
        if (mine := self.local / basename).is_file() and mine.stat().st_size == size:
            if self.remote is not None:
                _ = self._bound
            return mine
        origin = self.local if self.remote is None else self.remote
        path = origin / basename
        if not path.is_file():
            return None
        if (found := path.stat().st_size) != size:
            raise ShardCorruptError(
                f"{path}: {found} bytes, the index says {size}; the shard is truncated or belongs to another index: "
                "copy it again from its origin, or convert it again"
            )
        return path

    def missing(self, *basenames: str) -> ShardNotFoundError:
        """Return the error for a shard of which none of the files is there."""
        places = ", ".join(str((self.remote or self.local) / name) for name in basenames)
        return ShardNotFoundError(
            f"shard not found: looked for {places}; it is listed in {INDEX} of {self.describe()}: "
            "restore the file, or convert the dataset again"
        )

    def write(self, basename: str, size: int, make: Callable[[], bytes]) -> Path:
        """Put what `make` returns into the local directory under its name, at once or not at all; return its path.

        Of several threads or processes that want the same file of `size` bytes, one makes it and the others wait. What
        a killed process leaves is written over by the next.
        """
        _ = self._bound
        path = self.local / basename
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.is_file() and path.stat().st_size == size:
                partial.unlink(missing_ok=True)  # somebody else was faster
            else:
                file.truncate(0)
                file.write(make())
                file.flush()
                partial.replace(path)
        return path

    @cached_property
    def _bound(self) -> bool:
        """Bind the local directory to where it is filled from; the first to use it says it, for all others.

        Raises:
            ConfigError: it is bound to another dataset, whose shards could be taken for this one's.
        """
        origin = f"{(self.remote or self.local).resolve()} {blake2s(self.read_index()[0], digest_size=16).hexdigest()}"
        note = self.local / ".mixstream-origin"
        try:
            self.local.mkdir(parents=True, exist_ok=True, mode=0o700)
            with note.open("x") as file:
                file.write(origin)
        except FileExistsError:
            if (found := note.read_text()) not in (origin, ""):
                raise ConfigError(
                    f"Reused local directory: {self.local} holds shards of {found.split()[0]} vs {self.describe()} (or "
                    "of an earlier version of it). Provide a different one, or remove it"
                ) from None
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            return False  # a directory that we only read: nobody fills it from here
        return True
