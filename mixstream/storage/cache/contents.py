"""What lies in a cache directory: the shards that are there, and what killed processes left.

Rules: the directory is the truth, and no ledger is kept beside it. Only names that the dataset's index has are seen;
all else belongs to somebody else and is neither counted nor touched. So are symbolic links, and what is behind them.
A partial is a file that is being written, `.{name}.partial`; it is dead when nobody holds its lock.
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

INDEX = "index.json"
_NOT_THERE = (None, errno.ENOENT, errno.ENOTDIR, *FORBIDDEN)  # None: behind a symbolic link (`parent_of`)


def partial_name(leaf: str) -> str:
    """Return the name, in the same directory, under which the file `leaf` is written."""
    return f".{leaf}.partial"


@dataclass(frozen=True, slots=True)
class File:
    """A file of a shard: its name below the directory, the raw shard it belongs to, its inode, bytes, and last use.

    The last use is that of when it was first met, in nanoseconds since 1970 (`Listing.used` looks again).
    """

    name: str
    raw: str
    inode: int
    size: int
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A shard in a cache directory: its raw file, its packed file, or both.

    Args:
        listing: of the directory that it is in.
        path: of the raw file, whether or not it is there.
        files: those that are there.
    """

    listing: Listing
    path: Path
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)

    def remove(self) -> int:
        """Remove its files; return the bytes that are gone."""
        return sum(file.size for file in self.files if self.listing.remove(file.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a directory holds.

    Args:
        listing: of the directory.
        files: of shards.
        fixed: bytes of other files that count.
        partials: what is being written: (bytes, inode, time of the last write).
    """

    listing: Listing
    files: list[File]
    fixed: int
    partials: list[tuple[int, int, int]]

    @property
    def bytes(self) -> int:
        """Bytes of everything."""
        return self.fixed + sum(file.size for file in self.files) + sum(size for size, *_ in self.partials)

    def shards(self) -> list[Shard]:
        """Return the shards of which a file is there."""
        groups: dict[str, list[File]] = {}
        for file in self.files:
            groups.setdefault(file.raw, []).append(file)
        at = self.listing
        return [Shard(listing=at, path=at.path(raw), files=tuple(files)) for raw, files in groups.items()]


class Listing:
    """One cache directory and the names that its dataset has.

    Args:
        directory: the directory; without symbolic links in its path, so that all processes call it the same.
        names: raw shard -> its packed form, or None; both relative to the directory.
    """

    def __init__(self, directory: Path, names: Mapping[str, str | None]) -> None:
        self.directory, self.names = directory, names
        # Sub-directory -> name of a file in it -> raw shard that it belongs to; itself empty for the index.
        self._raw_of: dict[str, dict[str, str]] = {"": {INDEX: ""}}
        for raw, packed in names.items():
            for name in (raw, packed) if packed is not None else (raw,):
                below, _, leaf = name.rpartition("/")
                self._raw_of.setdefault(below, {})[leaf] = raw
        # Files by sub-directory and name. A file that has its name never changes its size, and another one has another
        # inode; asking for 20,000 sizes anew takes five times as long as listing the names.
        self._met: dict[str, dict[str, File]] = {below: {} for below in self._raw_of}
        self._paths: dict[str, Path] = {}  # of shards that were met: making one costs as much as a system call

    def path(self, raw: str) -> Path:
        """Return the path of a raw shard."""
        if (path := self._paths.get(raw)) is None:
            path = self._paths[raw] = self.directory / raw
        return path

    def scan(self) -> Contents:
        """Return what is there now; dead partials are removed on the way."""
        # What is renamed while a directory is read may show under neither name. So partials are looked for first: each
        # is seen then, or under its own name afterwards.
        before = self._partials()
        files, partials, fixed = [], [], 0
        for below, known, number, entries in self._walk():
            met = self._met[below]
            for entry in entries:
                name = entry.name
                raw = known.get(name)
                if raw and (file := met.get(name)) is not None and file.inode == entry.inode():
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
                    met[name] = File(path, raw, found.st_ino, found.st_size, _used(found))
                    files.append(met[name])
                else:
                    fixed += found.st_size
        seen = {file.inode for file in files}.union(inode for _, inode, _ in partials)
        partials.extend(partial for partial in before if partial[1] not in seen)
        return Contents(listing=self, files=files, fixed=fixed, partials=partials)

    def _partials(self) -> list[tuple[int, int, int]]:
        partials = []
        for _, known, _, entries in self._walk():
            for entry in entries:
                if _is_partial(entry.name, known):
                    with suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        partials.append((found.st_size, found.st_ino, found.st_mtime_ns))
        return partials

    def used(self, file: File) -> int:
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

    def remove(self, name: str) -> bool:
        """Remove a file; return whether it is gone."""
        try:
            with parent_of(self.directory, name) as (number, leaf):
                os.unlink(leaf, dir_fd=number)
        except OSError as error:
            if error.errno not in (*FORBIDDEN, errno.ENOENT):
                raise
            return error.errno == errno.ENOENT
        return True

    def _walk(self) -> Iterator[tuple[str, dict[str, str], int, Iterable[os.DirEntry[str]]]]:
        """Yield each sub-directory that names lead to, what is known of it, its descriptor, and its entries."""
        for below, known in self._raw_of.items():
            with ExitStack() as stack:
                try:
                    number, _ = stack.enter_context(parent_of(self.directory, f"{below}/." if below else "."))
                    entries = stack.enter_context(os.scandir(number))
                except OSError as error:
                    if error.errno not in _NOT_THERE:  # out of descriptors, say: what is there would not be counted
                        raise
                    continue
                yield below, known, number, entries


def _is_partial(name: str, known: Mapping[str, str]) -> bool:
    return name.startswith(".") and name.endswith(".partial") and name[1:-8] in known


def _used(found: os.stat_result) -> int:
    return max(found.st_atime_ns, found.st_mtime_ns)
