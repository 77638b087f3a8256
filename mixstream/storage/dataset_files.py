"""The files of one dataset: its index, and every shard as a raw file on local disk.

What lives here: where a dataset's files may be, and the version of it that is read. Rules: local originals are read in
place and never changed, unless a cache directory is given: then they are copied like those of a store. Everything else
is filled (`cache.materialize`) into one cache directory (`cache`), which is bound to one dataset and version. No name
leads out of the directory. Where there is no index, one is made from the files (`made_index`).
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from mixstream.lazy import later
from mixstream.records import dataclass
from mixstream.storage.cache.confirm import warn_if_replaced
from mixstream.storage.cache.directory import Cache
from mixstream.storage.cache.limit import CacheLimit
from mixstream.storage.cache.materialize import ShardSource
from mixstream.storage.cache.owner import CacheOwner, digest_of, warn_of_earlier
from mixstream.storage.companions import Companions
from mixstream.storage.in_place import InPlace
from mixstream.storage.index_file import origin_of, read_index
from mixstream.storage.mapping import map_file
from mixstream.storage.original import Original
from mixstream.storage.places import Places, version_directory
from mixstream.storage.retry import Retry
from mixstream.storage.spec import INDEX, ShardSpec, check_names
from mixstream.storage.store import Store
from mixstream.storage.stores.local import info_of

if TYPE_CHECKING:
    from mixstream.storage.cache.contents import CacheContents
    from mixstream.storage.large_file import LargeFile
    from mixstream.storage.made_index import IndexMaker, made_of
else:
    (CacheContents,) = later("mixstream.storage.cache.contents", "CacheContents")
    (LargeFile,) = later("mixstream.storage.large_file", "LargeFile")
    IndexMaker, made_of = later("mixstream.storage.made_index", "IndexMaker", "made_of")


_SLACK = 60.0  # seconds that a waiting process allows for unpacking, hashing and a slow disk


@dataclass(kw_only=True, eq=False)
class DatasetFiles:
    """One dataset's files: where they are, and how they get to local disk. Picklable, safe in threads and children.

    A dataset on local disk, of an index and one shard of five bytes, is read in place:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     _ = Path(place, "index.json").write_bytes(b"{}"), Path(place, "shard.00000.mds").write_bytes(b"12345")
    ...     files = DatasetFiles.locate(remote=place, local=None, split=None)
    ...     with files.open(ShardSpec(name="shard.00000.mds", size=5, check=None, compressed=None)) as file:
    ...         print(files.read_index()[0], file.read(), files.fetches)
    b'{}' b'12345' False

    Args:
        home: the directory that the user gave for raw shards; None for one below the temp dir.
        origin: local directory with the original files, which are read in place; None if there is none.
        store: directory with the original files, which are copied: a remote one, or a local one if `home` is given.
        retry: attempts and timeout of requests to the store.
        keep_compressed: whether compressed shards from the store are kept beside the raw ones.
        cache_limit: how much the cache directory may hold.
        names: raw file -> compressed file, or None; empty until `within` sets them. A shard may have two raw files.
        index: name of the file that lists the files of the store; other lists than a dataset's are read alike.
        identity: what identifies the originals besides their URL, without secrets (`identity.identity_of`).
        maker: makes the index from the files, where it is no file itself; None where it is.
        computes: whether shards are computed from originals (`ObjectPart.make`), as `within` sets it.
        durable: whether what is put into the cache directory survives a power cut, or is not there then.
    """

    home: Path | None = None
    origin: Path | None = None
    store: Store | None = None
    retry: Retry = field(default_factory=Retry)
    keep_compressed: bool = False
    cache_limit: CacheLimit = field(default_factory=CacheLimit)
    names: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    index: str = INDEX
    identity: str = ""
    maker: IndexMaker | None = None
    computes: bool = False
    durable: bool = False
    _in_place: InPlace = field(init=False, default_factory=InPlace, repr=False)
    _companions: Companions = field(init=False, default_factory=Companions, repr=False)
    _index_bytes: int = field(init=False, default=0, repr=False)
    _version: Original | None = field(init=False, default=None, repr=False)  # of the originals, as read last
    # Of the version of the dataset that was read last; None before. No `cached_property`: before Python 3.12 it locks,
    # and a forked child may inherit it locked.
    _cache: Cache | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        if self.maker is not None and self.store is None and self.origin is None:
            self.origin, self.home = self.home, None  # nothing is written beside files that have no index

    @classmethod
    def locate(
        cls,
        *,
        remote: str | None,
        local: str | None,
        split: str | None,
        retry: Retry = Retry(),  # noqa: B008 - frozen
        keep_compressed: bool = False,
        maker: IndexMaker | None = None,
        durable: bool = False,
    ) -> Self:
        """Return the files of a stream, from `remote` and `local` as the user gave them. No request is made.

        Relative paths are below the present directory of the process, wherever it goes afterwards. With a `maker`,
        `local` alone has the originals.

        Raises:
            ConfigError: neither of them is given, one is empty, or a URL is not valid.
        """
        places = Places.of(remote=remote, local=local, split=split, timeout=retry.timeout)
        return cls(
            home=places.home,
            origin=places.origin,
            store=places.store,
            retry=retry,
            keep_compressed=keep_compressed,
            identity=places.identity,
            maker=maker,
            durable=durable,
        )

    def __reduce__(self) -> tuple[object, ...]:
        # A copy in another process reads the same version, and does not need the bytes of the index for that.
        given = {item.name: getattr(self, item.name) for item in fields(self) if item.init}
        return _copied, (given, self._cache.owner.digest if self._cache is not None else None, self._version)

    def within(self, limit: CacheLimit, names: Mapping[str, str | None], *, computes: bool = False) -> Self:
        """Return these files under a limit, and remove what killed processes left of them.

        Args:
            limit: where the cache directory becomes a member, if it can be filled again.
            names: every raw file -> its compressed file, or None.
            computes: whether some of them are computed from originals.

        Raises:
            IndexCorruptError: a name leads out of the directory, or is one that the cache uses itself.
        """
        check_names(names)
        check_names(filter(None, names.values()))
        made = replace(self, cache_limit=limit, names=dict(names), computes=computes)
        made._version, made._index_bytes = self._version, self._index_bytes
        made._companions, made._in_place = self._companions, self._in_place.of_companions()
        if self._cache is not None:
            made._cache = made._cache_for(replace(self._cache.owner))
        if made.fetches:
            if made._refillable:
                owner = made._opened.owner
                owner.make_private()
                fixed = self._companions.names(self._version)
                limit.add(owner.directory, made.names, fixed, index=made._index_bytes)
                if owner.directory.is_dir():
                    owner.bind()  # it may be bound to another dataset, and that is better found now than in mid-run
                    if owner.changed:
                        warn_if_replaced(made._source, made.names)
            CacheContents(made.directory, made.names).sweep()
        return made

    @property
    def fetches(self) -> bool:
        """Whether anything may have to be downloaded, or (once `within` has set the names) unpacked or computed."""
        return self.store is not None or self.computes or any(self.names.values())

    @property
    def directory(self) -> Path:
        """Where raw shards are put. Below the temp dir, every version of a dataset has its own."""
        return self.home if self.home is not None else self._opened.directory

    @property
    def index_bytes(self) -> int:
        """Bytes of the index and companions in the cache directory; 0 if they are read in place, or in a copy."""
        return self._index_bytes + (self._companions.bytes if self.store is not None else 0)

    def path(self, name: str) -> Path:
        """Return where a raw shard is put: the path by which `CacheLimit` knows it."""
        return self.directory / name

    def describe(self) -> str:
        """Return the place that a user would look at, without credentials."""
        return self.store.url if self.store is not None else str(self.origin or self.home)

    @property
    def original(self) -> tuple[str, str]:
        """What identifies the original files: their place, and what the place does not say."""
        return self.describe(), " ".join(filter(None, (self.identity, self.maker.about if self.maker else "")))

    def read_index(self) -> tuple[bytes, str]:
        """Return the bytes of the index, and where they were read; every call reads, and the last one counts.

        Raises:
            IndexNotFoundError: there is none.
            UnfinishedError: there is none yet, or the directory is a part of a dataset (also an IndexNotFoundError).
            StoreError: the store cannot be read, and no index was kept from an earlier run.
        """
        data, where = self.open_index(large=None)
        assert isinstance(data, bytes)
        return data, where

    def open_index(self, *, large: int | None) -> tuple[bytes | LargeFile, str]:
        """Return the index as `read_index` does; where it is on local disk and of `large` bytes or more, as a file.

        The caller opens and closes the file, and says with `identify` which version it has read.
        """
        places = self.store, self.origin, self.home
        data, where, self._version = read_index(
            *places, retry=self.retry, name=self.index, identity=self.identity, maker=self.maker, large=large
        )
        self._companions, self._in_place = Companions(), InPlace()
        self._index_bytes = len(data) if isinstance(data, bytes) and self.store is not None else 0
        if isinstance(data, bytes):
            self.identify(digest_of(data), data)
        return data, where

    def identify(self, digest: str, data: bytes | None = None) -> None:
        """Say which version of the dataset is read.

        Args:
            digest: `index_hash` of the index that `open_index` returned; if nothing is ever fetched, any other will do.
            data: the index itself, to be kept beside shards of a store.
        """
        self._cache = self._cache_of(digest, data if self.store is not None else None)
        if self.store is not None and self.home is None:
            warn_of_earlier(self._cache.owner, self.store.url)

    def present(self, spec: ShardSpec) -> bool:
        """Return whether a raw file of the right size is on local disk; its bytes are not looked at."""
        return self._opened.has(spec, self._source)

    def open(self, spec: ShardSpec, *, need: float = 0.0, wait: bool = True) -> BinaryIO | None:
        """Return a local file of exactly `spec.size` bytes, open, downloaded or unpacked if it must be.

        It stays readable, and can be mapped, after it was evicted. The cache directory is asked first, then the local
        original; where neither has it, the shard is filled into the cache directory.

        Args:
            spec: of the shard.
            need: steps until the plan needs it: what is needed sooner is not evicted for it. 0: a reader waits.
            wait: whether to wait for others that are fetching it, and for room; without it None may be returned.

        Raises:
            ShardNotFoundError: no file of the shard is anywhere.
            ShardCorruptError: it is not what the index says, also when fetched again.
            StoreError: the store cannot be read, or the local directory cannot be written.
            CacheFullError: the limit or the disk has no room for it.
            ConfigError: the local directory is filled from another dataset.
            WaitTimeoutError: another thread or process that fetches it makes no progress.
        """
        return self._opened.open_or_fill(spec, self._source, need=need, wait=wait)

    def check_in_place(self, spec: ShardSpec, file: BinaryIO, *, is_companion: bool = False) -> None:
        """Check that what `open` returned was not written after the run began, if it is an original on local disk.

        Raises:
            StoreChangedError: it was, and no hash shows that it is right.
        """
        below = self.origin or (self.home if self.store is None and spec.compressed is None else None)
        if below is not None and Path(str(file.name)).is_relative_to(below):
            found = os.fstat(file.fileno())
            self._source.check_age(spec, info_of(found), lambda: map_file(file).data)
            self._in_place.add(spec, str(file.name), found, is_companion=is_companion)

    def check_mapped(self, name: str, spec: Callable[[], ShardSpec]) -> None:
        """Check that an original on local disk was not written to since it was mapped: then the mapping has new rows.

        A file that was put in its place changes no mapping. Of companions, one is looked at by each call.

        Raises:
            StoreChangedError: it was, and no hash shows that it is right.
        """
        self._in_place.check(name, spec, self._version)

    @property
    def is_in_place(self) -> bool:
        """Whether originals on local disk are mapped."""
        return bool(self._in_place)

    def companion(self, name: str, size: int) -> NDArray[np.uint8]:
        """Return a whole file of the dataset that is no shard, such as an index of documents.

        An original on local disk is mapped in place. Others are fetched into the cache directory once per machine, as
        shards are, and mapped there. They count below the cache limit and are never evicted. Every call in a process
        returns the same mapping; another process maps the file again.

        Args:
            name: of the file, below the dataset's directory.
            size: bytes, as the index says.

        Returns:
            uint8 [size], mapped and read-only.

        Raises:
            Those of `open`; StoreChangedError: the file is not the one that the index was made from.
        """
        return self._companions.get(name, size, self._map_companion)

    def _map_companion(self, spec: ShardSpec) -> NDArray[np.uint8]:
        if self.store is not None:
            self.cache_limit.add_fixed(self.directory, spec.name)
        file = self.open(spec)
        assert file is not None, "open() returns None only with wait=False"
        with file:
            data = map_file(file)
            self.check_in_place(spec, file, is_companion=True)
        return data

    def expect_repair(self, spec: ShardSpec) -> None:
        """Accept that a shard is written while the run reads: it was refused, and the user was told to restore it."""
        if self._version is not None and spec.part is None:  # other parts of a file are right, and stay of one version
            self._version.repaired |= {spec.name} | ({spec.compressed.name} if spec.compressed is not None else set())

    def renewed(self, spec: ShardSpec) -> BinaryIO | None:
        """Return a shard that is filled again, since what `open` returned is bad; None if nothing can fill it."""
        if not self._source.can_fill(spec):
            return None
        self._opened.reject(spec.name)
        return self.open(spec)

    @property
    def _refillable(self) -> bool:
        return self.store is not None or self.origin is not None

    @property
    def _source(self) -> ShardSource:
        return ShardSource(
            self.directory, self.origin, self.store, self.retry, self.keep_compressed, version=self._version
        )

    @property
    def _opened(self) -> Cache:
        """The cache directory of the version that is read; reads the index if it was not read yet."""
        if self._cache is None:
            self.read_index()
        assert self._cache is not None
        return self._cache

    def _cache_of(self, digest: str, index: bytes | None = None) -> Cache:
        """Return the cache directory of a version of the dataset; `index` is to be kept in it."""
        place = os.path.realpath(self.origin or self.home or "")
        place = made_of(self.maker, place) if self.maker is not None else place
        origin = origin_of(self.store, self.index, self.maker) if self.store is not None else place
        directory = self.home
        if directory is None:
            original = self.origin / INDEX if self.origin is not None and self.maker is None else None
            directory = version_directory(origin, original, self.identity) / digest
        owner = CacheOwner(
            directory=directory,
            origin=origin if self._refillable else None,
            digest=digest,
            index=index,
            private="" if self.home is not None else f"read {self.describe()}",
            identity=self.identity,
            version=self._version,
            durable=self.durable,
        )
        return self._cache_for(owner)

    def _cache_for(self, owner: CacheOwner) -> Cache:
        return Cache(owner=owner, limit=self.cache_limit, timeout=self.retry.longest + _SLACK)


def _copied(given: dict[str, Any], digest: str | None, version: Original | None) -> DatasetFiles:
    files = DatasetFiles(**given)
    files._version = version
    if digest is not None:
        files._cache = files._cache_of(digest)
    return files
