"""What a cache directory contains: the shards that are there, and files that killed processes left.

Rules: the directory is the only record of what it contains. Only names in the dataset's index are looked at; other
files, symbolic links and what they point to are neither counted nor touched. A partial is a file that is being
written, `.{name}.partial`; it is dead when it is not locked.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import field
from pathlib import Path

from mixstream.records import dataclass
from mixstream.storage.cache.locks import parent_of, remove_if_dead
from mixstream.storage.cache.records import record_name
from mixstream.storage.disk_errors import FORBIDDEN
from mixstream.storage.spec import INDEX, shard_of

_NOT_THERE = (None, errno.ENOENT, errno.ENOTDIR, *FORBIDDEN)  # None: behind a symbolic link (`parent_of`)


def partial_name(leaf: str) -> str:
    """Return the name, in the same directory, under which the file `leaf` is written."""
    return f".{leaf}.partial"


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A file of a shard: its name below the directory, its inode, bytes, and last use.

    The last use is in nanoseconds since 1970, of when the file was first seen (`CachedShard.used` looks again).
    """

    name: str
    inode: int
    size: int
    used: int


@dataclass(frozen=True, slots=True)
class CachedShard:
    """A shard in a cache directory: the path of its raw file, and those of its files that are there.

    These are raw and compressed ones; where the shard has two raw files, the path is that of the rows.
    """

    directory: Path
    path: Path
    files: list[CachedFile] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)

    def used(self) -> int:
        """Return when a file of it was last opened or written, in nanoseconds since 1970."""
        used = 0
        for file in self.files:
            with suppress(FileNotFoundError):
                used = max(used, _last_use((self.directory / file.name).lstat()))
        return used

    def remove(self) -> int:
        """Remove its files; return the bytes that are gone."""
        for file in self.files:
            remove(self.directory, record_name(file.name))
        return sum(file.size for file in self.files if remove(self.directory, file.name))


@dataclass(frozen=True, slots=True)
class Scan:
    """What a directory contained when it was scanned.

    Args:
        shards: of which a file is there.
        fixed: bytes of other files that count.
        partials: files being written: (bytes, inode, time of the last write).
        due: bytes of an index that is to come.
    """

    shards: list[CachedShard]
    fixed: int
    partials: list[tuple[int, int, int]]
    due: int = 0

    @property
    def bytes(self) -> int:
        """Bytes of everything."""
        return self.fixed + sum(shard.size for shard in self.shards) + sum(size for size, *_ in self.partials)


class CacheContents:
    """One cache directory, and the names that its dataset has.

    Args:
        directory: without symbolic links in its path, so that all processes use the same path.
        names: raw file -> compressed file, or None; both relative to the directory.
        fixed: other files that count, and are never evicted; besides the index.
        index: bytes of the index, which is written with the first shard; 0 if none is kept there.
    """

    def __init__(
        self, directory: Path, names: Mapping[str, str | None], fixed: Iterable[str] = (), *, index: int = 0
    ) -> None:
        self.directory, self.names, self.fixed, self.index = directory, names, frozenset(fixed), index
        # Sub-directory -> name of a file in it -> raw shard that it belongs to; itself empty for what is no shard.
        self._raw_of: dict[str, dict[str, str]] = {"": {INDEX: ""}}
        for name in self.fixed:
            below, _, leaf = name.rpartition("/")
            self._raw_of.setdefault(below, {})[leaf] = ""
        for file, compressed in names.items():
            raw = own if (own := shard_of(file)) in names else file
            for name in (file, compressed) if compressed is not None else (file,):
                below, _, leaf = name.rpartition("/")
                self._raw_of.setdefault(below, {})[leaf] = raw
        # Files by sub-directory and name. A published file never changes its size, and its replacement has another
        # inode; asking for 20,000 sizes again takes five times as long as listing the names.
        self._seen: dict[str, dict[str, CachedFile]] = {below: {} for below in self._raw_of}
        self._paths: dict[str, Path] = {}  # of shards that were seen: making one costs as much as a system call

    def scan(self) -> Scan:
        """Return what is there now; dead partials are removed on the way."""
        # A file that is renamed while the directory is read may be listed under neither name. So partials are listed
        # first: each is seen then, or under its final name afterwards.
        before = self.sweep()
        shards: dict[str, CachedShard] = {}
        partials, inodes, fixed, due = [], set(), 0, self.index
        for below, known, _, entries in self._walk():
            for entry in entries:
                raw = known.get(entry.name)
                if raw and (file := self._file(below, entry)) is not None:
                    inodes.add(file.inode)
                    if raw not in shards:
                        path = self._paths[raw] = self._paths.get(raw) or self.directory / raw
                        shards[raw] = CachedShard(self.directory, path)
                    shards[raw].files.append(file)
                elif raw == "" and (found := _stat(entry)) is not None:
                    fixed += found.st_size
                    due = 0 if not below and entry.name == INDEX else due
                elif _is_partial(entry.name, known):
                    partials += _partial(entry)
        partials = [partial for partial in partials if partial[1] not in inodes]  # renamed while it was listed
        inodes.update(inode for _, inode, _ in partials)
        partials += [partial for partial in before if partial[1] not in inodes]
        return Scan(list(shards.values()), fixed, partials, due)

    def _file(self, below: str, entry: os.DirEntry[str]) -> CachedFile | None:
        """Return a file of a shard, from an earlier scan if it is the same; None if it is gone, or not a file."""
        seen = self._seen[below]
        if (file := seen.get(entry.name)) is not None and file.inode == entry.inode():
            return file
        if (found := _stat(entry)) is None:
            return None
        name = f"{below}/{entry.name}" if below else entry.name
        file = seen[entry.name] = CachedFile(name, found.st_ino, found.st_size, _last_use(found))
        return file

    def sweep(self) -> list[tuple[int, int, int]]:
        """Remove dead partials, and return the others as in `Scan`."""
        partials = []
        for _, known, number, entries in self._walk():
            for entry in entries:
                if _is_partial(entry.name, known) and not remove_if_dead(number, entry.name):
                    partials += _partial(entry)
        return partials

    def _walk(self) -> Iterator[tuple[str, dict[str, str], int, Iterable[os.DirEntry[str]]]]:
        """Yield each sub-directory that names lead to, what is known of it, its descriptor, and its entries."""
        for below, known in self._raw_of.items():
            with ExitStack() as stack:
                try:
                    number, _ = stack.enter_context(parent_of(self.directory, f"{below}/." if below else "."))
                    entries = stack.enter_context(os.scandir(number))
                except OSError as error:
                    if error.errno not in _NOT_THERE:  # such as out of descriptors: its files would not be counted
                        raise
                    continue
                yield below, known, number, entries


def remove(directory: Path, name: str) -> bool:
    """Remove the file `name` of a cache directory; return whether it is gone."""
    try:
        with parent_of(directory, name) as (number, leaf):
            os.unlink(leaf, dir_fd=number)
    except OSError as error:
        if error.errno not in (*FORBIDDEN, errno.ENOENT):
            raise
        return error.errno == errno.ENOENT
    return True


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of a regular file; None if it is gone, or not one."""
    with suppress(FileNotFoundError):
        found = entry.stat(follow_symlinks=False)
        return found if stat.S_ISREG(found.st_mode) else None
    return None


def _partial(entry: os.DirEntry[str]) -> list[tuple[int, int, int]]:
    return [(found.st_size, found.st_ino, found.st_mtime_ns)] if (found := _stat(entry)) is not None else []


def _is_partial(name: str, known: Mapping[str, str]) -> bool:
    return name.startswith(".") and name.endswith(".partial") and name[1:-8] in known and name not in known


def _last_use(found: os.stat_result) -> int:
    return max(found.st_atime_ns, found.st_mtime_ns)
