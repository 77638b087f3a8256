"""What a cache directory contains: the shards that are there, and files that killed processes left.

Rules: the directory is the only record of what it contains. Only names in the dataset's index are looked at; other
files, symbolic links and what they point to are neither counted nor touched. A partial is a file that is being
written, `.{name}.partial`; it is dead when it is not locked.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from mixstream.storage.cache.locks import FORBIDDEN, parent_of, remove_if_dead
from mixstream.storage.spec import INDEX

_NOT_THERE = (None, errno.ENOENT, errno.ENOTDIR, *FORBIDDEN)  # None: behind a symbolic link (`parent_of`)


def partial_name(leaf: str) -> str:
    """Return the name, in the same directory, under which the file `leaf` is written."""
    return f".{leaf}.partial"


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A file of a shard: its name below the directory, the raw shard it belongs to, its inode, bytes, and last use.

    The last use is in nanoseconds since 1970, of when the file was first seen (`CacheContents.used` looks again).
    """

    name: str
    raw: str
    inode: int
    size: int
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedShard:
    """A shard in a cache directory: its raw file, its compressed file, or both.

    Args:
        contents: of the directory that it is in.
        path: of the raw file, whether or not it is there.
        files: those that are there.
    """

    contents: CacheContents
    path: Path
    files: tuple[CachedFile, ...]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)

    def remove(self) -> int:
        """Remove its files; return the bytes that are gone."""
        return sum(file.size for file in self.files if remove(self.contents.directory, file.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a directory contained when it was scanned.

    Args:
        contents: of the directory.
        files: of shards.
        fixed: bytes of other files that count.
        partials: files being written: (bytes, inode, time of the last write).
    """

    contents: CacheContents
    files: list[CachedFile]
    fixed: int
    partials: list[tuple[int, int, int]]

    @property
    def bytes(self) -> int:
        """Bytes of everything."""
        return self.fixed + sum(file.size for file in self.files) + sum(size for size, *_ in self.partials)

    def shards(self) -> list[CachedShard]:
        """Return the shards of which a file is there."""
        groups: dict[str, list[CachedFile]] = {}
        for file in self.files:
            groups.setdefault(file.raw, []).append(file)
        at = self.contents
        return [CachedShard(contents=at, path=at.path(raw), files=tuple(files)) for raw, files in groups.items()]


class CacheContents:
    """One cache directory, and the names that its dataset has.

    Args:
        directory: without symbolic links in its path, so that all processes use the same path.
        names: raw file -> compressed file, or None; both relative to the directory.
    """

    def __init__(self, directory: Path, names: Mapping[str, str | None]) -> None:
        self.directory, self.names = directory, names
        # Sub-directory -> name of a file in it -> raw shard that it belongs to; itself empty for the index.
        self._raw_of: dict[str, dict[str, str]] = {"": {INDEX: ""}}
        for raw, compressed in names.items():
            for name in (raw, compressed) if compressed is not None else (raw,):
                below, _, leaf = name.rpartition("/")
                self._raw_of.setdefault(below, {})[leaf] = raw
        # Files by sub-directory and name. A published file never changes its size, and its replacement has another
        # inode; asking for 20,000 sizes again takes five times as long as listing the names.
        self._seen: dict[str, dict[str, CachedFile]] = {below: {} for below in self._raw_of}
        self._paths: dict[str, Path] = {}  # of shards that were seen: making one costs as much as a system call

    def path(self, raw: str) -> Path:
        """Return the path of a raw shard."""
        if (path := self._paths.get(raw)) is None:
            path = self._paths[raw] = self.directory / raw
        return path

    def scan(self) -> Scan:
        """Return what is there now; dead partials are removed on the way."""
        # A file that is renamed while the directory is read may be listed under neither name. So partials are listed
        # first: each is seen then, or under its final name afterwards.
        before = self._partials()
        files, partials, fixed = [], [], 0
        for below, known, number, entries in self._walk():
            seen = self._seen[below]
            for entry in entries:
                name = entry.name
                raw = known.get(name)
                if raw and (file := seen.get(name)) is not None and file.inode == entry.inode():
                    files.append(file)
                    continue
                if raw is None and (not _is_partial(name, known) or remove_if_dead(number, name)):
                    continue
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if not stat.S_ISREG(found.st_mode):
                    continue
                if raw is None:
                    partials.append((found.st_size, found.st_ino, found.st_mtime_ns))
                elif raw:
                    path = f"{below}/{name}" if below else name
                    seen[name] = CachedFile(path, raw, found.st_ino, found.st_size, _used(found))
                    files.append(seen[name])
                else:
                    fixed += found.st_size
        inodes = {file.inode for file in files}.union(inode for _, inode, _ in partials)
        partials.extend(partial for partial in before if partial[1] not in inodes)
        return Scan(contents=self, files=files, fixed=fixed, partials=partials)

    def _partials(self) -> list[tuple[int, int, int]]:
        partials = []
        for _, known, _, entries in self._walk():
            for entry in entries:
                if _is_partial(entry.name, known):
                    with suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        partials.append((found.st_size, found.st_ino, found.st_mtime_ns))
        return partials

    def used(self, file: CachedFile) -> int:
        """Return when a file was last opened or written, in nanoseconds since 1970."""
        try:
            return _used((self.directory / file.name).lstat())
        except FileNotFoundError:
            return 0

    def sweep(self) -> None:
        """Remove dead partials."""
        for _, known, number, entries in self._walk():
            for entry in entries:
                if entry.name not in known and _is_partial(entry.name, known):
                    remove_if_dead(number, entry.name)

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


def _is_partial(name: str, known: Mapping[str, str]) -> bool:
    return name.startswith(".") and name.endswith(".partial") and name[1:-8] in known


def _used(found: os.stat_result) -> int:
    return max(found.st_atime_ns, found.st_mtime_ns)
