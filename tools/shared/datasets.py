"""Finds the datasets at a URL and reads their indexes, for `mixstream verify`, `inspect` and `plan`.

A URL is a value of a Stream's `remote`: the directory of one dataset (with index.json in it), or a directory above
several, as `mixstream convert` writes them: DIR/<domain>/<split>/index.json beside DIR/domains.json, which lists them.

Token files have no index: a URL names one of them, or a directory of them, for commands that take options about them.

Rules. Indexes are read from the store; nothing is cached or written, but for borders of documents of token files. An
index that cannot be read does not stop the search: its error is in `Dataset.trouble`, and so is what says that
something is unfinished. Names from a listing or from domains.json are used only if they stay below the URL.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from mixstream.errors import (
    ConfigError,
    IndexCorruptError,
    IndexNotFoundError,
    ShardCorruptError,
    StoreError,
    StoreNotFoundError,
    UnfinishedError,
)
from mixstream.formats import Index, Options, ShardInfo, check_index_hash, is_hash, is_token_file, parse_index
from mixstream.formats.columns import is_column_file
from mixstream.selection import DomainRows
from mixstream.storage import (
    INDEX,
    RUN,
    SUMMARY,
    Retry,
    Store,
    describe_conversion,
    domain_directory,
    domain_name,
    find_conversion,
    is_local,
    is_part_name,
    join,
    local_path,
    open_store,
    place_of,
    redact,
    refuse_part,
    split_name,
)

from .parallel import in_parallel
from .shards import read_bytes

_AT_ONCE = 8  # indexes that are read in parallel
_OPTIONS = {
    "seq_len": "--seq-len",
    "overlap": "--overlap",
    "dtype": "--dtype",
    "column": "--token-column",
    "eos_id": "--eos-id",
}
"""How errors name what a stream takes -> how commands do."""
_NAME = re.compile(r"(?!\.)[^\x00-\x1f\x7f\\/:?#]+(?:/(?!\.)[^\x00-\x1f\x7f\\/:?#]+)*")
"""A relative path of a directory, valid on every system; hidden directories belong to other programs."""
_SHARD = re.compile(r"(?:(.*)/)?([^/]*\.mds|shard\.\d{5,}\.(?:json|csv|tsv|xsv))(?:\.meta)?(?:\.[^/.]+)?")
"""A shard's file, raw or compressed: its directory, and the name of the raw file with the samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One dataset.

    Attributes:
        name: its name among the others: the path below the URL, or the URL.
        store: its store.
        index: its index; None if it cannot be read.
        trouble: why the index cannot be read.
        tokens: the rows of token files, which have no index.
        files: names of all objects below it; None if they cannot be listed, or were not asked for.
    """

    name: str
    store: Store
    index: Index | None = None
    trouble: Exception | None = None
    tokens: DomainRows | None = None
    files: frozenset[str] | None = None

    @property
    def shown(self) -> str:
        """`name` with the domain's own name: `C#/train` for the directory `C~23/train`."""
        return shown_name(self.name)

    @property
    def shards(self) -> Sequence[ShardInfo]:
        """The shards in the index; empty if there is no index."""
        return self.index.shards if self.index is not None else ()

    @property
    def about(self) -> Mapping[str, Any]:
        """The entry of `mixstream convert` in the index; empty if another program wrote the index."""
        about = self.index.extra.get("mixstream") if self.index is not None else None
        return about if isinstance(about, dict) else {}


def shown_name(name: str) -> str:
    """Return a dataset's name, for people, with its domain's own name in place of the directory's."""
    return redact("/".join(map(domain_name, name.split("/"))))


def find_datasets(
    urls: Sequence[str], retry: Retry, *, list_files: bool, options: Options | None = None
) -> tuple[list[Dataset], list[str]]:
    """Return the datasets at `urls`, in the order of `urls` and for each URL by name; and notes on the search.

    Args:
        urls: URLs of datasets, or of directories above datasets.
        retry: attempts and timeout of each request.
        list_files: whether to fill `Dataset.files`; for local directories, where it costs little, it is always filled.
        options: how token files are read; None for commands that read none.

    Raises:
        ConfigError: one of them is not a URL, or has no dataset, or token files that the command does not read.
    """
    if not urls:
        raise ConfigError("no URL is given: name the directory of a dataset, or a directory above several")
    datasets: list[Dataset] = []
    notes: list[str] = []
    for url in dict.fromkeys(urls):
        search = _Search(url, retry, alone=len(urls) == 1, list_files=list_files, options=options)
        datasets += search.datasets()
        notes += search.notes
    names = [dataset.name for dataset in datasets]
    if twice := [name for at, name in enumerate(names) if name in names[:at]]:
        raise ConfigError(f"{twice[0]} is given twice: give each dataset once")
    return datasets, notes


def _names_tokens(name: str) -> bool:
    return is_token_file(name) or is_column_file(name)


class _Search:
    """The search at one URL."""

    def __init__(self, url: str, retry: Retry, *, alone: bool, list_files: bool, options: Options | None) -> None:
        self._url, self._retry, self._alone, self._list_files = url, retry, alone, list_files or is_local(url)
        self._store = open_store(url, timeout=retry.timeout)
        self._options = options
        self.notes: list[str] = []

    def datasets(self) -> list[Dataset]:
        if _names_tokens(split_name(self._url)[1]):
            return [self._tokens()]
        here = self._open(self._store, name=place_of(self._url))
        if not isinstance(here.trouble, StoreNotFoundError):
            return [self._listed(here)]
        expected, listing = self._expected(), self._names()
        unfinished = self._unfinished(() if isinstance(listing, StoreError) else listing)
        if not expected and isinstance(listing, StoreError) and not isinstance(listing, StoreNotFoundError):
            return [Dataset(name=here.name, store=self._store, trouble=listing)]
        files = () if isinstance(listing, StoreError) else listing
        roots = {name for name, _ in unfinished}
        below = sorted(
            name for name in {*expected, *_directories(files)} if not _is_part(name) or not _lies_in(name, roots)
        )
        if roots:  # what has no index yet is not missing: the conversion is not at its end
            below = [name for name in below if not _lies_in(name, roots) or f"{name}/{INDEX}" in {*files}]
        unfinished += [
            (name, UnfinishedError(f"{join(self._store.url, name)}: {_unfinished(n)}"))
            for name, n in _orphans(files, below)
            if not _lies_in(name, roots)
        ]
        if not below and not unfinished:
            if any("/" not in name and _names_tokens(name) for name in files):
                return [self._tokens()]
            raise ConfigError(f"{redact(self._url)}: {self._why_none(here.trouble, listing)}")
        found = [Dataset(name=name or here.name, store=self._store, trouble=error) for name, error in unfinished]
        with closing(in_parallel(lambda name: self._at(name, files), below, workers=_AT_ONCE)) as opened:
            return [*found, *(dataset for _, dataset in sorted(opened, key=lambda pair: pair[0]))]

    def _tokens(self) -> Dataset:
        """Return the token files at the URL as a dataset."""
        name = place_of(self._url)
        if self._options is None:
            raise ConfigError(f"{name} has token files, which this command does not read; give an MDS dataset")
        try:
            rows = DomainRows.open(self._url, name=name, retry=self._retry, options=self._options)
        except (StoreError, IndexCorruptError, IndexNotFoundError, ShardCorruptError) as error:
            return Dataset(name=name, store=self._store, trouble=error)
        except ConfigError as error:
            if written := [f"{name} as {option}" for name, option in _OPTIONS.items() if f"{name}=" in str(error)]:
                error.add_note(f"in this command, write {', '.join(written)}")
            raise
        return Dataset(name=name, store=self._store, tokens=rows)

    def _unfinished(self, files: Sequence[str]) -> list[tuple[str, UnfinishedError]]:
        """Return the conversions at, above and below the URL that are not finished: path below the URL, and error."""
        found: list[tuple[str, UnfinishedError]] = []
        above = find_conversion(self._url, timeout=self._retry.timeout)
        whole = above is not None and above.below and any(_is_index(name) for name in files)
        if above is not None and above.unfinished and not whole:  # a domain that is whole is, whatever others are
            found.append(("", UnfinishedError(above.unfinished)))
        for root in sorted(name.removesuffix(f"/{RUN}") for name in files if name.endswith(f"/{RUN}")):
            store = open_store(join(self._url, root), timeout=self._retry.timeout)
            if (each := describe_conversion(store)) is not None and each.unfinished:
                found.append((root, UnfinishedError(each.unfinished)))
        return found

    def _at(self, below: str, files: Sequence[str]) -> Dataset:
        url = join(self._url, below)
        name = below if self._alone else place_of(url)
        dataset = self._open(open_store(url, timeout=self._retry.timeout), name=name)
        if not files or not self._list_files:
            return dataset
        own = frozenset(file[len(below) + 1 :] for file in files if file.startswith(f"{below}/"))
        return replace(dataset, files=own)

    def _why_none(self, *troubles: object) -> str:
        if any("no such bucket" in str(trouble) for trouble in troubles if isinstance(trouble, StoreNotFoundError)):
            return "there is no such bucket or container: check the spelling of the URL, and the endpoint"
        names = troubles[-1] if isinstance(troubles[-1], list) else []
        if below := sorted({name.rpartition("/")[0] for name in names if is_token_file(name)}):
            return f"no dataset is there, but token files are in its sub-directories {below[:8]}: give one of them"
        if is_local(self._url) and isinstance(troubles[-1], StoreNotFoundError):
            if local_path(self._url).is_file():
                return "it is a file: give the directory of a dataset, which has an index.json, or one above it"
            return "there is no such directory: check its spelling, and that the disk is mounted"
        return (
            f"no dataset is there, neither {INDEX} nor directories with one; give the URL of a Stream's `remote` with "
            "its split, or the directory above"
        )

    def _open(self, store: Store, *, name: str) -> Dataset:
        try:
            data = read_bytes(store, INDEX, None, self._retry)
            index = parse_index(data, where=INDEX)
            for algorithm in filter(is_hash, index.hashes):
                check_index_hash(data, algorithm, where=INDEX)
            refuse_part(store.url, timeout=self._retry.timeout)
            return Dataset(name=name, store=store, index=index)
        except (StoreError, IndexCorruptError, UnfinishedError) as error:
            return Dataset(name=name, store=store, trouble=error)

    def _listed(self, dataset: Dataset) -> Dataset:
        if not self._list_files or dataset.trouble is not None or isinstance(names := self._names(), StoreError):
            return dataset
        return replace(dataset, files=frozenset(names))

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
            summary = json.loads(read_bytes(self._store, SUMMARY, None, self._retry))
            names = {
                f"{domain_directory(domain)}/{split}"
                for domain, splits in summary["domains"].items()
                for split, counts in splits.items()
                if counts["rows"]
            }
        except StoreError:
            return set()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.notes.append(f"{self._store.url}/{SUMMARY} was not written by `mixstream convert`, and is ignored")
            return set()
        return {name for name in names if _NAME.fullmatch(name)}


def refuse_unfinished(datasets: Sequence[Dataset]) -> None:
    """Raise the error of what is unfinished at the URLs: a command that reads domains would miss some of them.

    Raises:
        UnfinishedError: something is.
    """
    for dataset in datasets:
        if isinstance(dataset.trouble, UnfinishedError):
            raise dataset.trouble


def _unfinished(shards: int) -> str:
    there = f"there are {shards} shards" if shards > 1 else "there is 1 shard"
    return (
        f"{there} but no {INDEX}: the writing was not finished; run the program that writes it again, to its end, or "
        "remove them"
    )


def _is_index(file: str) -> bool:
    return file.endswith(f"/{INDEX}") and not _is_part(file.removesuffix(f"/{INDEX}"))


def _is_part(name: str) -> bool:
    return is_part_name(name.rpartition("/")[2])


def _lies_in(name: str, roots: Set[str]) -> bool:
    return any(not root or name == root or name.startswith(f"{root}/") for root in roots)


def _orphans(files: Sequence[str], below: Sequence[str]) -> list[tuple[str, int]]:
    """Return directories with shards that are not inside any of `below`, with the number of shards, sorted by name."""
    shards = {(found[1] or "", found[2]) for file in files if (found := _SHARD.fullmatch(file))}
    held = Counter(directory for directory, _ in shards)
    known = {*below}

    def is_orphan(directory: str) -> bool:
        above = (directory[: end.start()] for end in re.finditer(r"/|$", directory))  # `a` and `a/b` of `a/b`
        return (not directory or bool(_NAME.fullmatch(directory))) and known.isdisjoint(above)

    return sorted((directory, n) for directory, n in held.items() if is_orphan(directory))


def _directories(files: Sequence[str]) -> Iterator[str]:
    """Yield directories with an index, except those below another one: that index names their shards."""
    last: str | None = None
    found = sorted(file.removesuffix(f"/{INDEX}") + "/" for file in files if file.endswith(f"/{INDEX}"))
    for directory in found:
        if last is not None and directory.startswith(last):
            continue
        last = directory
        if _NAME.fullmatch(directory[:-1]):
            yield directory[:-1]
