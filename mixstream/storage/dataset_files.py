"""The files of one dataset: its index, and every shard as a raw file on local disk.

What lives here: which of the places that may have a file is asked, in which order, and what of it is believed. Rules:
local originals are read in place and never changed; all else is made (`maker`) in one cache directory (`cache`), which
is bound to one dataset and version (`binding`). Bytes are checked when they arrive, and what lies on disk once per
process; what is wrong there is fetched anew before it is an error. No name leads out of the directory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

from mixstream.errors import ConfigError, ShardCorruptError
from mixstream.storage.cache.contents import INDEX, Listing
from mixstream.storage.cache.directory import Cache, Errand, Partial, opened
from mixstream.storage.cache.limit import Budget
from mixstream.storage.cache.owner import bind, digest_of, make_private, private_directory, remember
from mixstream.storage.index_file import read_local_index, read_remote_index
from mixstream.storage.mapping import map_file
from mixstream.storage.materialize import Maker, ShardSpec, check_name, wrong_size
from mixstream.storage.open import open_store
from mixstream.storage.retry import Retry
from mixstream.storage.store import Store
from mixstream.storage.url import is_local, join, local_path

_SLACK = 60.0  # seconds in which a waiting process forgives unpacking, hashing and a slow disk
_Identity = tuple[int, int, int, int]  # device, inode, bytes, time of the last write


class _Known:
    """What this process knows by now. No `cached_property`: it locks, and a forked child may find it locked."""

    def __init__(self) -> None:
        self.index: tuple[bytes, str] | None = None
        self.digest: str | None = None
        self.directory: Path | None = None
        self.bound = False
        # Of files on disk, by the shard's name: those that were looked at, and the one that was given out last.
        self.good: dict[str, _Identity] = {}
        self.bad: dict[str, _Identity] = {}
        self.given: dict[str, _Identity] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetFiles:
    """One dataset's files: where they are, and how they get to local disk. Picklable, safe in threads and children.

    Args:
        home: the directory that the user gave for raw shards; None for one below the temp dir.
        origin: local directory with the original files, which are read in place; None if there is none.
        store: remote directory with the original files; None if there is none.
        retry: attempts and timeout of requests to the store.
        keep_packed: whether compressed shards from the store are kept beside the raw ones.
        budget: what the cache directory may hold.
        names: raw shard -> its packed form, or None; empty until `within` tells them.
    """

    home: Path | None = None
    origin: Path | None = None
    store: Store | None = None
    retry: Retry = field(default_factory=Retry)
    keep_packed: bool = False
    budget: Budget = field(default_factory=Budget)
    names: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    _known: _Known = field(init=False, default_factory=_Known, repr=False)

    @classmethod
    def locate(
        cls,
        *,
        remote: str | None,
        local: str | None,
        split: str | None,
        retry: Retry = Retry(),  # noqa: B008 - frozen
        keep_packed: bool = False,
    ) -> DatasetFiles:
        """Return the files of a stream: `remote` and `local` as its user gave them. No request is made.

        Raises:
            ConfigError: neither of them, or URLs that cannot be.
        """
        home = Path(os.path.realpath(local_path(local) / (split or ""))) if local is not None else None
        if home is not None and home.is_file():
            raise ConfigError(f"local={str(home)!r} is a file; pass a directory for the dataset's shards")
        if remote is None:
            if home is None:
                raise ConfigError("`remote` and/or `local` path must be provided")
            return cls(home=home, retry=retry, keep_packed=keep_packed)
        if not is_local(remote):
            store = open_store(join(remote, split or ""), timeout=retry.timeout)
            return cls(home=home, store=store, retry=retry, keep_packed=keep_packed)
        origin = local_path(remote) / (split or "")
        if home is not None and home == Path(os.path.realpath(origin)):
            return cls(home=home, retry=retry, keep_packed=keep_packed)
        return cls(home=home, origin=origin, retry=retry, keep_packed=keep_packed)

    def __reduce__(self) -> tuple[object, ...]:
        # A copy elsewhere reads the same version, and does not need the bytes of the index for that.
        digest = self._digest if self._known.index is not None else self._known.digest
        given = {item.name: getattr(self, item.name) for item in fields(self) if item.init}
        return _copied, (given, digest)

    def within(self, budget: Budget, names: Mapping[str, str | None]) -> DatasetFiles:
        """Return these files under a budget, and remove what killed processes left of them.

        Args:
            budget: where the cache directory becomes a member, if it can be filled again.
            names: every raw shard -> its packed form, or None.

        Raises:
            IndexCorruptError: a name leads out of the directory, or is one that the cache uses itself.
        """
        for raw, packed in names.items():
            check_name(raw)
            check_name(packed or raw)
        made = replace(self, budget=budget, names=dict(names))
        made._known.digest = self._digest if self._known.index is not None else self._known.digest
        made._known.index = self._known.index if self.store is not None else None  # until it is kept in the cache
        if made.fetches:
            if made._refillable:
                made._make_private()
                budget.add(made.directory, made.names)
                if made.directory.is_dir():
                    made._bind()  # what is there may be another dataset's, and better known now than in mid-run
            Listing(made.directory, made.names).sweep()
        return made

    @property
    def fetches(self) -> bool:
        """Whether anything may have to be downloaded, or (as far as `within` was told) unpacked."""
        return self.store is not None or any(packed is not None for packed in self.names.values())

    @property
    def directory(self) -> Path:
        """Where raw shards are put. Below the temp dir, every version of a dataset has its own."""
        if self.home is not None:
            return self.home
        if self._known.directory is None:
            index = self.origin / INDEX if self.origin is not None else None
            # A dataset may be made anew with the same sizes, and so the same index; on local disk, its time tells.
            stamp = f":{index.stat().st_mtime_ns}" if index is not None and index.is_file() else ""
            self._known.directory = private_directory(self._source + stamp) / self._digest
        return self._known.directory

    def path(self, name: str) -> Path:
        """Return where a raw shard is put: what budgets know it by."""
        return self.directory / name

    def describe(self) -> str:
        """Return the place that a user would look at, without credentials."""
        return self.store.url if self.store is not None else str(self.origin or self.home)

    def read_index(self) -> tuple[bytes, str]:
        """Return the bytes of `index.json`, and where they were read; every call reads, and the last one counts.

        Raises:
            IndexNotFoundError: there is none.
            StoreError: the store cannot be read, and no index was kept from another time.
        """
        if self.store is not None:
            index = read_remote_index(self.store, home=self.home, retry=self.retry)
        else:
            index = read_local_index(*(place for place in (self.origin, self.home) if place is not None))
        self._known.index = index
        self._known.digest, self._known.directory, self._known.bound = None, None, False
        return index

    def present(self, want: ShardSpec) -> bool:
        """Return whether a raw file of the right size is on local disk; its bytes are not looked at."""
        places = [self.directory / want.name] + ([self.origin / want.name] if self.origin is not None else [])
        for path in places:
            try:
                found = path.stat()
            except OSError:
                continue
            if found.st_size == want.size and self._known.bad.get(want.name) != _identity(found):
                return True
        return False

    def open(self, want: ShardSpec, *, need: float = 0.0, wait: bool = True) -> BinaryIO | None:
        """Return a local file of exactly `want.size` bytes, open, downloaded or unpacked if it must be.

        It stays readable, and can be mapped, after it was evicted.

        Args:
            want: the shard.
            need: steps until the plan needs it: what is needed sooner is not evicted for it. 0: somebody waits.
            wait: whether to wait for others who are fetching it, and for room; without it None may be returned.

        Raises:
            ShardNotFoundError: no file of the shard is anywhere.
            ShardCorruptError: it is not what the index says, also when fetched anew.
            StoreError: the store cannot be read, or the local directory not be written.
            CacheFullError: the limit or the disk has no room for it.
            ConfigError: the local directory is filled from another dataset.
            WaitTimeoutError: whoever else fetches it stands still.
        """
        check_name(want.name)
        file = self._find(want) or self._original(want) or self._make(want, need=need, wait=wait)
        if file is not None:
            self._known.given[want.name] = _identity(os.fstat(file.fileno()))
        return file

    def renewed(self, want: ShardSpec) -> BinaryIO | None:
        """Return a shard made anew, since what `open` gave is bad; None if there is nothing to make it from."""
        if not self._maker.able(want):
            return None
        if want.name not in self._known.given and (file := self._cache.find(want.name)) is not None:
            with file:
                self._known.given[want.name] = _identity(os.fstat(file.fileno()))
        if want.name in self._known.given:
            self._known.bad[want.name] = self._known.given[want.name]
        return self.open(want)

    @property
    def _refillable(self) -> bool:
        return self.store is not None or self.origin is not None

    @property
    def _source(self) -> str:
        """What the cache directory is filled from."""
        return self.store.url if self.store is not None else os.path.realpath(self.origin or self.directory)

    @property
    def _cache(self) -> Cache:
        patience = self.retry.longest + _SLACK
        return Cache(directory=self.directory, budget=self.budget, patience=patience)

    @property
    def _maker(self) -> Maker:
        return Maker(directory=self.directory, origin=self.origin, store=self.store, retry=self.retry)

    @property
    def _digest(self) -> str:
        if self._known.digest is None:
            self._known.digest = digest_of((self._known.index or self.read_index())[0])
        return self._known.digest

    def _bind(self) -> None:
        """Bind the cache directory to its origin, once per process; also keeps a remote index in it."""
        if self._known.bound:
            return
        self._make_private()
        digest, index = self._digest, None
        if self.store is not None and self._known.index is not None:
            index = self._known.index[0]
        bind(self.directory, origin=self._source if self._refillable else None, digest=digest, index=index)
        if self.home is None and index is not None:
            remember(self.directory.parent, digest)
        self._known.bound, self._known.index = True, None

    def _make_private(self) -> None:
        if self.home is None:
            make_private(self.directory.parent, what=f"read {self.describe()}")

    def _find(self, want: ShardSpec) -> BinaryIO | None:
        """Return the file of the cache directory, if it is there and good."""
        file = self._cache.find(want.name)
        return self._checked(want, file, ours=True) if file is not None else None

    def _original(self, want: ShardSpec) -> BinaryIO | None:
        """Return the local original of a raw shard, if there is one."""
        try:
            file = opened(self.origin / want.name) if self.origin is not None else None
        except FileNotFoundError:
            return None
        return self._checked(want, file, ours=False) if file is not None else None

    def _checked(self, want: ShardSpec, file: BinaryIO, *, ours: bool) -> BinaryIO | None:
        """Return a file if it is good; close it if not."""
        good = False
        try:
            if ours and self._refillable:
                self._bind()
            good = self._good(want, file, makeable=ours)
        finally:
            if not good:
                file.close()
        return file if good else None

    def _good(self, want: ShardSpec, file: BinaryIO, *, makeable: bool) -> bool:
        """Return whether a file is what the index says; each is looked at once.

        Raises:
            ShardCorruptError: it is not, and nothing can be made in its place.
        """
        found = os.fstat(file.fileno())
        identity = _identity(found)
        if self._known.bad.get(want.name) == identity:
            return False
        if self._known.good.get(want.name) == identity:
            return True
        try:
            if not stat.S_ISREG(found.st_mode) or found.st_size != want.size:
                raise wrong_size(Path(file.name), found.st_size, want.size)
            if want.check is not None:
                want.check(map_file(file).data)
        except ShardCorruptError as error:
            if not makeable or not self._maker.able(want):
                error.add_note(f"file {file.name}")
                raise
            self._known.bad[want.name] = identity
            return False
        self._known.good[want.name] = identity
        return True

    def _make(self, want: ShardSpec, *, need: float, wait: bool) -> BinaryIO | None:
        """Return a shard that is made in the cache directory, by us or by somebody else."""
        if not self._maker.able(want):
            raise self._maker.missing(want)
        self._bind()
        beside: tuple[tuple[str, int], ...] = ()
        if self.keep_packed and want.packed is not None and self._maker.keeps(want):
            beside = ((want.packed.name, want.packed.size),)
        made: list[bool] = []

        def produce(partials: list[Partial]) -> None:
            self._maker.produce(want, partials)
            made.append(True)

        file = self._cache.make(
            Errand(
                name=want.name,
                size=want.size,
                beside=beside,
                there=lambda: self._find(want),
                produce=produce,
                need=need,
                wait=wait,
            )
        )
        if file is not None and made:  # its bytes were looked at when they came
            self._known.good[want.name] = _identity(os.fstat(file.fileno()))
        return file


def _copied(given: dict[str, Any], digest: str | None) -> DatasetFiles:
    files = DatasetFiles(**given)
    files._known.digest = digest
    return files


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
