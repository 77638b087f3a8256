"""Is one shard what its index says? Finding out, and saying what is wrong in words and in a kind.

Rule: a check stops at the first thing that is wrong with a file, since all of it has the same remedy; samples are the
exception, they are counted. What the store does not give is told apart from what is wrong: it was not checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mixstream.errors import (
    ConfigError,
    MixstreamError,
    ShardCorruptError,
    StoreAccessError,
    StoreNotFoundError,
)
from mixstream.formats import FileInfo, ShardInfo, decode_sample, hash_hex, is_hash, read_offsets
from mixstream.storage import Retry, Store

from .shard_at import read_bytes, unpacked, without_pickles
from .shown import message_of, notes_of, printable

Kind = Literal["index", "missing", "size", "hash", "damaged", "samples", "refused", "unreachable"]
UNCHECKED: frozenset[Kind] = frozenset({"refused", "unreachable"})
"""Kinds that say nothing about the bytes."""
AGAIN = "copy it again, or make it again"
ANEW = "make it again: these are the bytes that were written"
TODO: Mapping[Kind, str] = {
    "index": "write the index again",
    "missing": AGAIN,
    "size": AGAIN,
    "hash": AGAIN,
    "damaged": AGAIN,
    "samples": AGAIN,
    "refused": "not checked: renew the credentials, or allow reading it",
    "unreachable": "not checked: try again when the store answers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How far a check goes.

    Args:
        sizes_only: ask the store for the sizes of files, and read none.
        samples: how many samples of a shard to decode, evenly spread; None for all.
        allow_unsafe_types: unpickle pickled columns.
    """

    sizes_only: bool = False
    samples: int | None = None
    allow_unsafe_types: bool = False

    def rows(self, count: int) -> Iterable[int]:
        """Return the samples to decode, of `count`."""
        if self.samples is None or self.samples >= count:
            return range(count)
        return [at * count // self.samples for at in range(self.samples)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that is wrong, or could not be looked at.

    Attributes:
        kind: what sort.
        file: which file of the dataset.
        what: the fact.
        todo: the remedy.
        notes: what the error had to add.
    """

    kind: Kind
    file: str
    what: str
    todo: str
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, kind: Kind, file: str, error: Exception, *, todo: str | None = None) -> Fault:
        """Return the fault that an exception tells of."""
        told = re.sub(rf"^\S*{re.escape(printable(file))}: ", "", message_of(error))  # the table names the file already
        told = told.partition("; the shard cannot be ")[0]
        return cls(kind=kind, file=file, what=told, todo=todo or TODO[kind], notes=tuple(notes_of(error)))

    @classmethod
    def of_store(cls, file: str, error: Exception) -> Fault:
        """Return the fault that a store's exception tells of."""
        if isinstance(error, StoreNotFoundError):
            return cls(kind="missing", file=file, what="it is not there", todo=TODO["missing"])
        return cls.of("refused" if isinstance(error, StoreAccessError) else "unreachable", file, error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came out for one shard.

    Attributes:
        fault: what is wrong; None if nothing is.
        bytes: how many were read.
        decoded: how many samples were decoded, and were well.
    """

    fault: Fault | None = None
    bytes: int = 0
    decoded: int = 0


def check_shard(
    store: Store, info: ShardInfo, *, retry: Retry, depth: Depth, files: frozenset[str] | None, local: bool
) -> Finding:
    """Compare one shard with its entry in the index.

    On local disk the raw file counts as the shard, with or without the packed one beside it: that is what is read.

    Args:
        store: where its files are.
        info: its entry.
        retry: how often a request is made.
        depth: how far to go.
        files: what the store lists; None if it cannot.
        local: whether the store is a directory of local disk.
    """
    stored = info.zip or info.raw
    raw_too = local and info.zip is not None and files is not None and info.raw.basename in files
    if raw_too and files is not None and stored.basename not in files:
        stored = info.raw
    check = _Check(store, info, retry, depth)
    if depth.sizes_only:
        fault = check.size(stored) or (check.size(info.raw) if raw_too and stored is not info.raw else None)
        return Finding(fault=fault)
    finding = check.contents(stored)
    if finding.fault is None and raw_too and stored is not info.raw:
        second = check.contents(info.raw)
        return Finding(fault=second.fault, bytes=finding.bytes + second.bytes, decoded=finding.decoded)
    return finding


class _Check:
    """The steps, for one shard."""

    def __init__(self, store: Store, info: ShardInfo, retry: Retry, depth: Depth) -> None:
        self._store, self._info, self._retry, self._depth = store, info, retry, depth

    def size(self, file: FileInfo) -> Fault | None:
        """Check that a file is there, in its size."""
        name, store = file.basename, self._store
        try:
            found = self._retry.call(f"asking for {store.url}/{name}", lambda: store.info(name), renew=store.renew)
        except (MixstreamError, OSError) as error:
            return Fault.of_store(name, error)
        if found.size == file.bytes:
            return None
        return Fault(
            kind="size",
            file=name,
            what=f"it has {found.size:,} bytes, the index says {file.bytes:,}",
            todo=TODO["size"],
        )

    def contents(self, file: FileInfo) -> Finding:
        """Check the bytes of a file, and of what is packed in it."""
        name = file.basename
        try:
            data = read_bytes(self._store, name, file.bytes, self._retry)
        except ShardCorruptError as error:  # the size; asked for anew, since the error speaks to who streams
            return Finding(fault=self.size(file) or Fault.of("size", name, error))
        except (MixstreamError, OSError) as error:
            return Finding(fault=Fault.of_store(name, error))
        size, decoded = len(data), 0
        fault = _compare(file, data, self._info.hashes, file=name, todo=AGAIN)
        if fault is None:
            # Hashes that are right vouch for the bytes: a copy of them would be no better.
            todo = ANEW if any(map(is_hash, file.hashes)) else AGAIN
            try:
                raw = unpacked(self._info, data) if file is self._info.zip else data
                del data  # two of them are enough in memory
                decoded, fault = self._unpacked(raw, file, todo)
            except ShardCorruptError as error:
                fault = Fault.of("damaged", name, error, todo=todo)
        return Finding(fault=fault, bytes=size, decoded=decoded)

    def _unpacked(self, raw: bytes, file: FileInfo, todo: str) -> tuple[int, Fault | None]:
        """Check raw bytes, which came out of `file`; how many samples are well, and what is wrong."""
        info, name = self._info, file.basename
        if file is not info.raw and (fault := _compare(info.raw, raw, info.hashes, file=name, todo=todo)) is not None:
            return 0, fault
        offsets = read_offsets(raw, info, where=name)
        info = without_pickles(info, allow=self._depth.allow_unsafe_types)
        view, good, bad, first = memoryview(raw), 0, 0, None
        for row in self._depth.rows(info.samples):
            try:
                decode_sample(view[offsets[row] : offsets[row + 1]], info, where=f"sample {row}")
                good += 1
            except ConfigError:  # a package is missing, which is no fault of the sample
                raise
            except MixstreamError as error:
                bad, first = bad + 1, first or error
        if first is None:
            return good, None
        fault = Fault.of("samples", name, first, todo=todo)
        if bad == 1:
            return good, fault
        return good, replace(fault, what=f"{bad:,} of {good + bad:,} samples do not decode; the first: {fault.what}")


def _compare(info: FileInfo, data: bytes, promised: Iterable[str], *, file: str, todo: str) -> Fault | None:
    """Compare `data` with every hash that the index gives of it; one that is not known here is passed over."""
    part = "" if info.basename == file else "unpacked: "
    if missing := [hash_ for hash_ in promised if hash_ not in info.hashes]:
        what = f"{part}the index promises the hash {missing[0]} and does not give it"
        return Fault(kind="index", file=file, what=what, todo=TODO["index"])
    for hash_, expected in info.hashes.items():
        if is_hash(hash_) and (found := hash_hex(hash_, data)) != expected:
            return Fault(kind="hash", file=file, what=f"{part}{hash_} is {found}, the index says {expected}", todo=todo)
    return None
