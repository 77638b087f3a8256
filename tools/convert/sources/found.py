"""Places → the files that are converted: each once, looked at, without what is no document."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from typing import NamedTuple

from mixstream.errors import ConfigError, StoreNotFoundError

from ...shared.parallel import in_parallel
from ..documents.fields import Fields
from ..files.choice import Choice
from ..files.source_files import SourceFile, open_slice, split_name
from ..files.stored_bytes import look_at
from ..readers import READERS, FieldError
from .archives import choice_inside
from .config import Source
from .datasets import around_datasets
from .listing import Skipped
from .places import Entry, Place
from .refused import Refused, explain_refused
from .saved_datasets import is_cache, without_bookkeeping
from .sniff import Sniffed, field_fault, sniff

NOT_TAKEN = "left out by --include or --exclude"
_ABOUT = re.compile(
    r"(readme|licen[sc]e|copying|notice|citation|changelog|changes|authors|contributors|datasheet|(data(set)?|model)_?card)"
    r"([._-].*)?",
    re.IGNORECASE,
)
_ARCHIVED = READERS["tar"].suffixes | READERS["zip"].suffixes
_SMALL = 16 << 20  # bytes
_LOOKS = 16  # objects that are looked at in parallel
_MANY = 1000  # files

Progress = Callable[..., AbstractContextManager[Callable[[int], None]]]
"""`Console.progress`."""


class Found(NamedTuple):
    """A file that a SRC names or holds, and its domain."""

    domain: str
    entry: Entry
    source: Source

    def choice(self, common: Choice) -> Choice:
        """Which files of its SRC are read, where `common` is what the command says."""
        return self.source.choice or common

    def reads_as(self, other: Found, common: Choice) -> bool:
        """Whether the SRC of another find makes the same documents of the file."""
        mine, its, name = self.choice(common), other.choice(common), self.file.name
        inside = mine == its or split_name(name)[1] not in _ARCHIVED
        as_text = mine.is_text(name) == its.is_text(other.file.name)
        return inside and as_text and mine.format == its.format and self.source.fields == other.source.fields

    @property
    def named(self) -> bool:
        """Whether it is a SRC itself, so that it cannot be skipped."""
        return self.entry.named

    @property
    def file(self) -> SourceFile:
        """The file, as far as it is known before it is looked at."""
        return self.entry.file


_Look = tuple[Found, Sniffed | None]


def files_below(domains: Sequence[tuple[str, Place, Source]], common: Choice, skipped: Skipped) -> Iterator[Found]:
    """Yield the files of each SRC that are to be read, in order."""
    for domain, place, source in domains:
        entries, choice = place.entries(skipped), source.choice or common
        if place.is_folder:
            entries = without_bookkeeping(entries, shown=place.shown, choice=choice, skipped=skipped, load=_load)
        for entry in entries:
            if is_cache(entry):
                skipped["a cache of another dataset", ""] += 1
            elif choice.takes(entry.file.name, named=entry.named):
                yield Found(domain, entry, source)
            else:
                skipped[NOT_TAKEN, ""] += 1


def _load(file: SourceFile) -> bytes:
    """The beginning of a small file."""
    with open_slice(_sized(file).whole) as stream:
        return stream.read(_SMALL)


def once(files: Iterator[Found], common: Choice, skipped: Skipped) -> Iterator[Found]:
    """Yield each file once, however many SRC and links lead to it. Raises ConfigError if they are different domains."""
    first: dict[tuple[int, int] | str, Found] = {}
    for found in files:
        other = first.setdefault(found.entry.inode or found.file.path, found)
        if other is found or not _is_same(found.entry, other.entry):
            yield found
        elif found.domain == other.domain and not found.reads_as(other, common):
            raise ConfigError(
                f"{found.file.path} is a file of two sources with different options, {other.source.typed} and "
                f"{found.source.typed}, and a file is read once. Leave it out of one of them: in --config, "
                'exclude = ["PATTERN"].'
            )
        elif found.domain == other.domain:
            skipped["named twice, and read once", ""] += 1
        else:
            also = "" if found.file.path == other.file.path else f", as {found.file.path},"
            raise ConfigError(
                f"{other.file.path} would be read twice: in domain {other.domain!r}, and{also} in domain "
                f"{found.domain!r}. Leave out one SRC, or --exclude the file."
            )


def _is_same(one: Entry, other: Entry) -> bool:
    """Whether two files are one. Equal inodes alone do not say it: some network file systems use them again."""
    if one.inode is None or os.path.realpath(one.file.path) == os.path.realpath(other.file.path):
        return True
    return one.linked and os.path.samefile(one.file.path, other.file.path)  # noqa: PTH121  # paths are strings here


def sniffed_files(
    files: Iterator[Found],
    choice: Choice,
    skipped: Skipped,
    fields: Fields | None,
    faults: dict[str, FieldError | None],
    *,
    progress: Progress | None,
) -> list[tuple[Found, SourceFile]]:
    """The files that a reader can read. Raises ConfigError, once all were looked at, if others may hold documents.

    What is wrong with the `fields` of an object is put into `faults`, so that its head is requested once.
    """
    listed = list(files)
    around = around_datasets([found.file for found in listed], skipped)
    taken: list[tuple[Found, SourceFile]] = []
    refused: dict[str, list[Refused]] = {}
    left = [found for found in listed if found.file.path not in around]
    for found, sniffed in _shown(_looked_at(left, choice, fields, faults), len(left), progress):
        if sniffed is None:
            skipped["empty", split_name(found.file.name)[1]] += 1
            continue
        file, foreign = sniffed
        if foreign is None:
            inside = choice_inside(found.choice(choice), file.format)
            taken.append((found, replace(file, choice=inside, fields=found.source.fields)))
        elif foreign.data or found.named:
            refused.setdefault(foreign.name, []).append(Refused(found.file.path, found.file.name, foreign))
        else:
            skipped["not text", split_name(found.file.name)[1] or "no suffix"] += 1
    if refused:
        raise ConfigError(explain_refused(refused, [found.file.name for found, _ in taken]))
    return taken


def _shown(files: Iterator[_Look], total: int, progress: Progress | None) -> Iterator[_Look]:
    """Yield what was looked at, and show how many of `total` files that are, if it may take a while."""
    if progress is None or total < _MANY:
        yield from files
        return
    with progress("look at the sources", total=total, unit="files") as advance:
        for file in files:
            yield file
            advance(1)


def _looked_at(
    files: Sequence[Found], choice: Choice, fields: Fields | None, faults: dict[str, FieldError | None]
) -> Iterator[_Look]:
    """Yield each file with what it is, None for an empty one; objects are looked at in parallel."""

    def look(at: int) -> Sniffed | None:
        sniffed = _look(files[at], choice)
        if sniffed is not None and sniffed.foreign is None and fields is not None:
            faults[sniffed.file.path] = field_fault(sniffed.file, files[at].source.fields or fields)
        return sniffed

    stored = [at for at, found in enumerate(files) if found.file.stored is not None]
    seen: dict[int, Sniffed | None] = {}
    with closing(in_parallel(look, stored, workers=_LOOKS)) as results:
        seen.update(results)
    for at, found in enumerate(files):
        yield found, seen[at] if at in seen else _look(found, choice)


def _look(found: Found, choice: Choice) -> Sniffed | None:
    """Look at a file; None if it is empty and not a SRC itself."""
    choice = found.choice(choice)
    file = replace(_sized(found.file), format=choice.format)
    if not file.size and not found.named:
        return None
    return sniff(file, forced=choice.format != "auto", as_text=choice.is_text(file.name))


def _sized(file: SourceFile) -> SourceFile:
    """The file with its size and version, which the store is asked for."""
    if file.stored is None:
        return file
    try:
        info = look_at(file.stored, file.path)
    except StoreNotFoundError:
        raise ConfigError(f"{file.path}: it was listed, and is gone now. Run the same command again.") from None
    return replace(file, size=info.size, version=info.identity)


def without_about(group: Sequence[tuple[Found, SourceFile]], choice: Choice, skipped: Skipped) -> Iterator[SourceFile]:
    """Yield the files of a group, without a README and its kind where the group is data and not a tree of texts."""
    about = {
        id(found)
        for found, file in group
        if not found.named
        and not READERS[file.format].has_fields
        and _ABOUT.fullmatch(file.name.rpartition("/")[2])
        and not found.choice(choice).is_text(file.name)
    }
    others = [file for found, file in group if id(found) not in about]
    is_data = all(READERS[file.format].has_fields for file in others)
    if not others:  # what it describes was no text
        is_data = any(reason == "not text" for reason, _ in skipped)
    for found, file in group:
        if is_data and id(found) in about:
            skipped["about the data", file.name] += 1
        else:
            yield file
