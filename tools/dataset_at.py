"""The datasets at a URL: found, and their indexes read. What `mixstream verify` and `mixstream inspect` begin with.

A URL is what a Stream's `remote` can be: the directory of one dataset (index.json lies in it), or one above several,
as `mixstream convert` makes them: DIR/<domain>/<split>/index.json beside DIR/domains.json, which says which there
should be.

Rules. Reads straight from the store, nothing is cached or written. What cannot be read does not stop the rest: it is
told in `Dataset.trouble`. Names that come out of a listing or of domains.json are used only if they stay below the URL.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from mixstream.errors import ConfigError, IndexCorruptError, StoreError, StoreNotFoundError
from mixstream.formats import Index, check_index_hash, is_hash, parse_index
from mixstream.storage import Retry, Store, is_local, join, open_store, read_object, redact

from .crew import in_parallel

INDEX = "index.json"
SUMMARY = "domains.json"
_AT_ONCE = 8  # indexes that are read in parallel
_NAME = re.compile(r"(?!\.)[^\x00-\x1f\x7f\\/:?#]+(?:/(?!\.)[^\x00-\x1f\x7f\\/:?#]+)*")
"""A directory below another on every system; hidden ones are somebody's own."""
_SHARD = re.compile(r"(?:(.*)/)?([^/]*\.mds)(?:\.[^/.]+)?")
"""A shard's file, raw or packed: its directory, and its name when raw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One dataset.

    Attributes:
        name: what it is called beside the others: its path below the URL, or the URL.
        store: where it is.
        index: what is in it; None if there is `trouble`.
        trouble: why there is no index.
        files: names of all objects below it; None where they cannot be listed.
    """

    name: str
    store: Store
    index: Index | None = None
    trouble: Exception | None = None
    files: frozenset[str] | None = None

    @property
    def about(self) -> Mapping[str, Any]:
        """What `mixstream convert` wrote into the index; empty where another program made it."""
        told = self.index.extra.get("mixstream") if self.index is not None else None
        return told if isinstance(told, dict) else {}


@dataclass(slots=True)
class Found:
    """The datasets at some URLs, and what is to be said of the search."""

    datasets: list[Dataset] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_datasets(urls: Sequence[str], retry: Retry, *, list_files: bool) -> Found:
    """Return the datasets at `urls`, in their order and by name.

    Args:
        urls: of datasets, or of directories above some.
        retry: how often a request is made.
        list_files: whether `Dataset.files` is wanted; on local disk, where it costs little, it is always there.

    Raises:
        ConfigError: one of them is not a URL, or there is no dataset.
    """
    if not urls:
        raise ConfigError("no URL is given: name the directory of a dataset, or one above several")
    found = Found()
    for url in dict.fromkeys(urls):
        search = _Search(url, retry, alone=len(urls) == 1, list_files=list_files)
        found.datasets += search.datasets()
        found.notes += search.notes
    names = [dataset.name for dataset in found.datasets]
    if twice := [name for at, name in enumerate(names) if name in names[:at]]:
        raise ConfigError(f"{twice[0]} is given twice: give each dataset once")
    return found


class _Search:
    """The search at one URL."""

    def __init__(self, url: str, retry: Retry, *, alone: bool, list_files: bool) -> None:
        self._url, self._retry, self._alone, self._list_files = url, retry, alone, list_files or is_local(url)
        self._store = open_store(url, timeout=retry.timeout)
        self.notes: list[str] = []

    def datasets(self) -> list[Dataset]:
        here = self._open(self._store, name=redact(self._url))
        if not isinstance(here.trouble, StoreNotFoundError):
            return [self._listed(here)]
        expected, listing = self._expected(), self._names()
        if not expected and isinstance(listing, StoreError) and not isinstance(listing, StoreNotFoundError):
            return [Dataset(name=here.name, store=self._store, trouble=listing)]
        files = () if isinstance(listing, StoreError) else listing
        if not (below := sorted({*expected, *_directories(files)})):
            raise ConfigError(f"{redact(self._url)}: {self._why_none(files, here.trouble, listing)}")
        self.notes += [f"{join(self._store.url, name)}: {_unfinished(n)}" for name, n in _orphans(files, below)]
        with closing(in_parallel(lambda name: self._at(name, files), below, workers=_AT_ONCE)) as opened:
            return [dataset for _, dataset in sorted(opened, key=lambda pair: pair[0])]

    def _at(self, below: str, files: Sequence[str]) -> Dataset:
        url = join(self._url, below)
        name = below if self._alone else redact(url)
        dataset = self._open(open_store(url, timeout=self._retry.timeout), name=name)
        if not files or not self._list_files:
            return dataset
        own = frozenset(file[len(below) + 1 :] for file in files if file.startswith(f"{below}/"))
        return Dataset(name=name, store=dataset.store, index=dataset.index, trouble=dataset.trouble, files=own)

    def _why_none(self, files: Sequence[str], *troubles: object) -> str:
        if shards := sum(n for _, n in _orphans(files, ())):
            return _unfinished(shards)
        if any("no such bucket" in str(trouble) for trouble in troubles if isinstance(trouble, StoreNotFoundError)):
            return "there is no such bucket or container: check the URL's spelling, and the endpoint"
        if is_local(self._url) and isinstance(troubles[-1], StoreNotFoundError):
            return "there is no such directory: check its spelling, and that the disk is mounted"
        return (
            f"no dataset is there, neither {INDEX} nor directories that hold one; give the URL that a Stream's "
            "`remote` has, with its split, or the directory above"
        )

    def _open(self, store: Store, *, name: str) -> Dataset:
        try:
            data = _read(store, INDEX, self._retry)
            index = parse_index(data, where=INDEX)
            for algorithm in filter(is_hash, index.hashes):
                check_index_hash(data, algorithm, where=INDEX)
            return Dataset(name=name, store=store, index=index)
        except (StoreError, IndexCorruptError) as error:
            return Dataset(name=name, store=store, trouble=error)

    def _listed(self, dataset: Dataset) -> Dataset:
        if not self._list_files or dataset.trouble is not None or isinstance(names := self._names(), StoreError):
            return dataset
        return Dataset(name=dataset.name, store=dataset.store, index=dataset.index, files=frozenset(names))

    def _names(self) -> list[str] | StoreError:
        try:
            return self._retry.call(f"listing {self._store.url}", self._store.names, renew=self._store.renew)
        except StoreNotFoundError as error:
            return error
        except StoreError as error:
            self.notes.append(f"{self._store.url} cannot be listed, so files that no index names are not looked for")
            return error

    def _expected(self) -> set[str]:
        """The datasets that domains.json names."""
        try:
            told = json.loads(_read(self._store, SUMMARY, self._retry))
            names = {
                f"{domain}/{split}"
                for domain, splits in told["domains"].items()
                for split, counts in splits.items()
                if counts["rows"]
            }
        except StoreError:
            return set()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.notes.append(f"{self._store.url}/{SUMMARY} is not what `mixstream convert` writes, and is left aside")
            return set()
        return {name for name in names if _NAME.fullmatch(name)}


def _read(store: Store, name: str, retry: Retry) -> bytes:
    data = read_object(store, name, size=None, retry=retry)
    assert data is not None, "without `into`, the bytes are returned"
    return data


def _unfinished(shards: int) -> str:
    there = f"there are {shards} shards" if shards > 1 else "there is 1 shard"
    return f"{there} but no {INDEX}: the writing was not finished; run again what writes it, to its end"


def _orphans(files: Sequence[str], below: Sequence[str]) -> list[tuple[str, int]]:
    """Return the directories that hold shards and lie in none of `below`, with the number of shards, by name."""
    shards = {(found[1] or "", found[2]) for file in files if (found := _SHARD.fullmatch(file))}
    held = Counter(directory for directory, _ in shards)
    known = {*below}

    def is_orphan(directory: str) -> bool:
        if directory and not _NAME.fullmatch(directory):
            return False
        return not any(directory[:at] in known for at in _ends(directory))

    return sorted((directory, n) for directory, n in held.items() if is_orphan(directory))


def _ends(directory: str) -> Iterator[int]:
    """Yield where the names of a directory and of those above it end."""
    yield from (found.start() for found in re.finditer(r"/|$", directory))


def _directories(files: Sequence[str]) -> Iterator[str]:
    """Directories with an index of their own; those below another one belong to it (its index names their shards)."""
    last: str | None = None
    found = sorted(file.removesuffix(f"/{INDEX}") + "/" for file in files if file.endswith(f"/{INDEX}"))
    for directory in found:
        if last is not None and directory.startswith(last):
            continue
        last = directory
        if _NAME.fullmatch(directory[:-1]):
            yield directory[:-1]
