"""Making a raw shard out of what its origin has: downloaded, or unpacked from its compressed form.

Rules: bytes are checked as they arrive, packed ones in memory, raw ones before their file gets its name; what is wrong
is fetched once more before it is an error. Compressed bytes pass through memory only, and all threads together hold a
bounded number of them. Compressed files that are on local disk are used before the store is asked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mixstream.errors import IndexCorruptError, ShardCorruptError, ShardNotFoundError, StoreNotFoundError
from mixstream.storage.cache.contents import INDEX, Listing
from mixstream.storage.cache.directory import Partial, opened
from mixstream.storage.cache.locks import PREFIX
from mixstream.storage.mapping import map_file
from mixstream.storage.memory import unpacking
from mixstream.storage.retry import Retry
from mixstream.storage.store import Store
from mixstream.storage.transfer import read_object
from mixstream.storage.watched import WatchedStore

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12 on

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedSpec:
    """The compressed form of a shard.

    Args:
        name: below the dataset's directory.
        size: bytes.
        check: raises ShardCorruptError for wrong bytes; None if they are not to be checked.
        unpack: packed bytes -> raw bytes, exactly as many as the raw shard has; raises ShardCorruptError.
    """

    name: str
    size: int
    check: Callable[[Buffer], None] | None
    unpack: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSpec:
    """One shard, as storage sees it.

    Args:
        name: of the raw file, below the dataset's directory.
        size: bytes of the raw file.
        check: raises ShardCorruptError for wrong raw bytes; None if they are not to be checked.
        packed: its compressed form, if it has one.
    """

    name: str
    size: int
    check: Callable[[Buffer], None] | None
    packed: CompressedSpec | None


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes raw shards of one dataset.

    Args:
        directory: the cache directory, which may have packed files.
        origin: local directory with the originals, if there is one.
        store: remote directory with the originals, if there is one.
        retry: attempts and timeout of requests to it.
    """

    directory: Path
    origin: Path | None
    store: Store | None
    retry: Retry

    def able(self, want: ShardSpec) -> bool:
        """Return whether there is something to make a shard from."""
        return self.store is not None or any(path.is_file() for path in self._packed_files(want))

    def keeps(self, want: ShardSpec) -> bool:
        """Return whether the packed form is to be fetched from the store, and so can be kept."""
        return self.store is not None and not any(path.is_file() for path in self._packed_files(want))

    def missing(self, want: ShardSpec) -> ShardNotFoundError:
        """Return the error for a shard of which none of the files is there."""
        names = [want.name] + ([want.packed.name] if want.packed is not None else [])
        place = self.store.url if self.store is not None else str(self.origin or self.directory)
        return ShardNotFoundError(
            f"shard not found: looked for {', '.join(f'{place}/{name}' for name in names)}; it is listed in {INDEX} of "
            f"{place}: restore the file, or convert the dataset again"
        )

    def produce(self, want: ShardSpec, partials: list[Partial]) -> None:
        """Write a raw shard to the first partial; to the second, if there is one, its packed form.

        Raises:
            ShardNotFoundError: none of its files is there.
            ShardCorruptError: what came is wrong, also the second time.
            StoreError: the store could not be read.
        """
        try:
            if want.packed is not None and self._produce_packed(want, want.packed, partials):
                return
            self._download(want, partials[0])
        except StoreNotFoundError as error:
            raise self.missing(want) from error

    def _produce_packed(self, want: ShardSpec, packed: CompressedSpec, partials: list[Partial]) -> bool:
        """Unpack a shard; return False if nobody has its packed form."""
        beat = partials[0].beat
        with unpacking.hold(2 * packed.size + want.size, beat):  # parts and the whole are there for an instant
            try:
                data, raw = self._unpacked(want, packed, beat)
            except StoreNotFoundError:
                return False
            partials[0].write(raw)
            for partial in partials[1:]:
                partial.write(data)
        return True

    def _unpacked(self, want: ShardSpec, packed: CompressedSpec, beat: Callable[[], None]) -> tuple[bytes, bytes]:
        """Return the bytes of a shard, packed and raw: from local disk if they are there and right."""
        for path in self._packed_files(want):
            try:
                with opened(path) as file:
                    if (size := os.fstat(file.fileno()).st_size) != packed.size:
                        raise wrong_size(path, size, packed.size)
                    return self._checked(want, packed, file.read(packed.size + 1))
            except FileNotFoundError:
                continue
            except ShardCorruptError as error:
                if self.store is None:
                    error.add_note(f"while unpacking {path}")
                    raise
                if path.parent.is_relative_to(self.directory):  # or it would be tried again and again
                    Listing(self.directory, {}).remove(packed.name)
        if self.store is None:
            raise self.missing(want)
        store = WatchedStore(self.store, beat)

        def fetch() -> tuple[bytes, bytes]:
            data = read_object(store, packed.name, size=packed.size, retry=self.retry)
            assert data is not None
            return self._checked(want, packed, data)

        return _until_right(fetch, f"{store.url}/{packed.name}", self.retry)

    def _download(self, want: ShardSpec, partial: Partial) -> None:
        if self.store is None:
            raise self.missing(want)
        store = WatchedStore(self.store, partial.beat)

        def fetch() -> None:
            read_object(store, want.name, size=want.size, retry=self.retry, into=partial.number)
            if want.check is not None:
                with os.fdopen(partial.number, "rb", closefd=False) as file:
                    want.check(map_file(file).data)

        _until_right(fetch, f"{store.url}/{want.name}", self.retry)
        partial.filled = True

    def _packed_files(self, want: ShardSpec) -> Iterator[Path]:
        if want.packed is not None:
            yield self.directory / want.packed.name
            if self.origin is not None:
                yield self.origin / want.packed.name

    def _checked(self, want: ShardSpec, packed: CompressedSpec, data: bytes) -> tuple[bytes, bytes]:
        if packed.check is not None:
            packed.check(data)
        raw = packed.unpack(data)
        if len(raw) != want.size:
            raise wrong_size(self.directory / want.name, len(raw), want.size)
        if want.check is not None:
            want.check(raw)
        return data, raw


def wrong_size(path: Path, found: int, wanted: int) -> ShardCorruptError:
    """Return the error for a file of another size than its index says."""
    return ShardCorruptError(
        f"{path}: {found} bytes, the index says {wanted}; the shard is truncated or belongs to another index: "
        "copy it again from its origin, or convert it again"
    )


def check_name(name: str) -> None:
    """Refuse what `formats` should have refused: nothing is written outside the directory, whatever comes.

    Raises:
        IndexCorruptError: the name leads elsewhere, or is one that the cache uses itself.
    """
    parts = name.split("/")
    own = parts[-1].startswith(PREFIX) or (parts[-1].startswith(".") and parts[-1].endswith(".partial"))
    if not name or "\0" in name or own or name == INDEX or any(part in ("", ".", "..") for part in parts):
        raise IndexCorruptError(
            f"{name!r} is no name for a shard: it leads out of the dataset's directory, or is one that the cache uses "
            "itself; fetch the index again, or write the dataset again"
        )


def _until_right(fetch: Callable[[], T], where: str, retry: Retry) -> T:
    """Fetch, and fetch anew while what comes is wrong: as often as a request is tried, but once at least."""
    for left in range(max(retry.attempts, 2) - 1, 0, -1):
        try:
            return fetch()
        except ShardCorruptError:
            if left > 1:
                time.sleep(retry.pause(0))
    try:
        return fetch()
    except ShardCorruptError as error:
        error.add_note(f"{where} was fetched anew, and is wrong again: the original is damaged, or not the index's")
        raise
