"""What a SRC names: a file, a directory of files, or standard input; on disk here, in a store in store_places.py.

Rule: a place knows its files and their names, in the order of names, and what of it is skipped. Which of the files are
taken, and as what, is in sources.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from mixstream.errors import ConfigError

from ..files.source_files import SourceFile, split_name
from .listing import Skipped, expand, walk


class Entry(NamedTuple):
    """A file that a SRC names or holds."""

    file: SourceFile
    """Its format is not known yet; nor are size and version of an object."""
    named: bool
    """Whether it is a SRC itself, so that it cannot be skipped."""
    inode: tuple[int, int] | None = None
    """Of a local file: device and inode."""
    linked: bool = False
    """Whether a local file has several names."""


class Place(Protocol):
    """What a SRC names."""

    @property
    def shown(self) -> str:
        """The path, or the URL without credentials."""
        ...

    @property
    def name(self) -> str:
        """The last part of it; of a file without its suffixes."""
        ...

    @property
    def is_folder(self) -> bool:
        """Whether it is a directory."""
        ...

    def folders(self) -> Sequence[Place]:
        """The directories in it, if it holds nothing else; else none."""
        ...

    def entries(self, skipped: Skipped) -> Iterator[Entry]:
        """Yield its files, and count what is skipped."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalPlace:
    """A file or directory on disk; `matched` if a pattern found it."""

    path: Path
    matched: bool = False

    @property
    def shown(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def name(self) -> str:
        """The last part of the path; of a file without its suffixes."""
        return self.path.resolve().name if self.is_folder else split_name(self.path.name)[0]

    @property
    def is_folder(self) -> bool:
        """Whether it is a directory."""
        return self.path.is_dir()

    def folders(self) -> Sequence[LocalPlace]:
        """The directories in it, if it holds nothing else but hidden files; else none."""
        if not self.is_folder:
            return []
        children = [child for child in sorted(self.path.iterdir()) if not child.name.startswith(".")]
        only = all(child.is_dir() and not child.is_symlink() for child in children)
        return [LocalPlace(path=child) for child in children] if only else []

    def entries(self, skipped: Skipped) -> Iterator[Entry]:
        """Yield its files; raises ConfigError if it is neither a file nor a directory."""
        if self.path.is_file():
            yield _entry(str(self.path.absolute()), self.path.stat(), self.path.name, named=not self.matched)
        elif not self.is_folder:
            raise ConfigError(f"SRC {self.path}: neither a file nor a directory.")
        else:
            for found, name in walk(self.path, skipped):
                yield _entry(found.path, found.stat(), name, named=False)


@dataclass(frozen=True, kw_only=True)
class SpooledPlace:
    """Standard input, as it was copied to disk."""

    file: SourceFile
    shown: str = "-"
    name: str = "stdin"
    is_folder: bool = False

    def folders(self) -> Sequence[Place]:
        """None: it is a file."""
        return []

    def entries(self, skipped: Skipped) -> Iterator[Entry]:
        """Yield the copy."""
        yield Entry(self.file, named=True)


def find_local(pattern: str) -> list[LocalPlace]:
    """Return what a path, or a pattern of paths, names. Raises ConfigError if there is nothing."""
    return [LocalPlace(path=path, matched=str(path) != pattern) for path in expand(pattern)]


def describe(path: str, stat: os.stat_result, *, name: str, format: str = "") -> SourceFile:  # noqa: A002
    """Describe a local file. Paths are plain strings here: a corpus may have millions of files."""
    return SourceFile(
        path=path,
        name=name,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        format=format,
        compression=split_name(path)[2],
    )


def _entry(path: str, stat: os.stat_result, name: str, *, named: bool) -> Entry:
    return Entry(describe(path, stat, name=name), named, (stat.st_dev, stat.st_ino), stat.st_nlink > 1)
