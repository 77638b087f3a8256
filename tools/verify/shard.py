"""Checks whether one shard matches its index; a fault has a kind, and a fact and a remedy in words.

Rule: a check stops at the first fault of a file, because all faults of a file have the same remedy; only bad samples
are counted. Files that the store does not return are a kind of their own: they were not checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mixstream.errors import ConfigError, MixstreamError, ShardCorruptError, StoreAccessError, StoreNotFoundError
from mixstream.formats import FileInfo, ShardInfo, decode_sample, hash_hex, is_hash, join_files, read_offsets
from mixstream.storage import Retry, Store

from ..shared.safe_text import message_of, notes_of, printable
from ..shared.shards import decompressed, read_bytes, without_pickles

Kind = Literal[
    "unfinished", "index", "missing", "size", "hash", "damaged", "samples", "documents", "refused", "unreachable"
]
UNCHECKED: frozenset[Kind] = frozenset({"refused", "unreachable"})
"""Kinds that say nothing about the bytes."""
Look = Callable[[int, Mapping[str, Any]], None]
"""Takes the number of a sample in its shard, and its columns; raises ShardCorruptError if something is wrong."""
REPLACE = "copy it again, or rebuild it"
REBUILD = "rebuild it: its hash is correct, so a copy would be the same"
TODO: Mapping[Kind, str] = {
    "unfinished": "run the program that writes it again, to its end",
    "index": "rebuild the index",
    "missing": REPLACE,
    "size": REPLACE,
    "hash": REPLACE,
    "damaged": REPLACE,
    "samples": REPLACE,
    "documents": "copy the directory `documents` and index.json again from one place, or convert the domain again",
    "refused": "not checked: renew the credentials, or grant read access",
    "unreachable": "not checked: try again when the store responds",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How much is checked.

    Args:
        sizes_only: ask the store for the sizes of files, and read no file.
        samples: number of samples of a shard to decode, evenly spread; None for all.
        allow_unsafe_types: unpickle pickled columns.
    """

    sizes_only: bool = False
    samples: int | None = None
    allow_unsafe_types: bool = False

    @property
    def decodes(self) -> bool:
        """Whether any sample is decoded."""
        return not self.sizes_only and self.samples != 0

    def rows(self, count: int) -> Iterable[int]:
        """Return which of `count` samples to decode."""
        if self.samples is None or self.samples >= count:
            return range(count)
        return [at * count // self.samples for at in range(self.samples)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault of a file, or the reason why it could not be checked.

    Attributes:
        kind: one of `Kind`.
        file: the file's name in the dataset.
        what: the fact.
        todo: the remedy.
        notes: the notes of the error.
    """

    kind: Kind
    file: str
    what: str
    todo: str
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, kind: Kind, file: str, error: Exception, *, todo: str | None = None) -> Fault:
        """Return the fault for an exception."""
        # The table names the file already, and has its own remedy.
        what = re.sub(rf"^\S*{re.escape(printable(file))}: ", "", message_of(error))
        what = what.partition("; the shard cannot be ")[0]
        return cls(kind=kind, file=file, what=what, todo=todo or TODO[kind], notes=tuple(notes_of(error)))

    @classmethod
    def of_store(cls, file: str, error: Exception) -> Fault:
        """Return the fault for an exception of the store."""
        if isinstance(error, StoreNotFoundError):
            return cls(kind="missing", file=file, what="it is not there", todo=TODO["missing"])
        return cls.of("refused" if isinstance(error, StoreAccessError) else "unreachable", file, error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result for one shard.

    Attributes:
        fault: the fault; None if there is none.
        bytes: number of bytes read.
        decoded: number of samples that were decoded without an error.
    """

    fault: Fault | None = None
    bytes: int = 0
    decoded: int = 0


def check_shard(
    store: Store,
    info: ShardInfo,
    *,
    retry: Retry,
    depth: Depth,
    files: frozenset[str] | None,
    local: bool,
    look: Look | None = None,
) -> Finding:
    """Compare one shard with its entry in the index.

    On local disk the raw file is the shard, with or without the compressed file beside it, because it is what is read.

    Args:
        store: the store of its files.
        info: its entry.
        retry: attempts and timeout of each request.
        depth: how much to check.
        files: the files that the store lists; None if they are not known.
        local: whether the store is a local directory.
        look: what else is checked of each decoded sample.
    """
    raws, stored = tuple(raw for raw, _ in info.files), tuple(packed or raw for raw, packed in info.files)
    raw_too = local and stored != raws and files is not None and all(raw.basename in files for raw in raws)
    if raw_too and files is not None and not all(file.basename in files for file in stored):
        stored = raws
    check = _Check(store, info, retry, depth, look)
    if depth.sizes_only:
        every = (*stored, *(raws if raw_too and stored != raws else ()))
        return Finding(fault=next((fault for file in every if (fault := check.size(file)) is not None), None))
    finding = check.contents(stored)
    if finding.fault is None and raw_too and stored != raws:
        second = check.contents(raws)
        return Finding(fault=second.fault, bytes=finding.bytes + second.bytes, decoded=finding.decoded)
    return finding


class _Check:
    """The checks of one shard."""

    def __init__(self, store: Store, info: ShardInfo, retry: Retry, depth: Depth, look: Look | None) -> None:
        self._store, self._info, self._retry, self._depth, self._look = store, info, retry, depth, look

    def size(self, file: FileInfo) -> Fault | None:
        """Check that a file exists and has its size."""
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

    def contents(self, files: Sequence[FileInfo]) -> Finding:
        """Check the bytes of the files, in the order of `ShardEntry.files`, and if compressed, the raw bytes too."""
        raws, size, todo = [], 0, REPLACE
        for file, (raw, _) in zip(files, self._info.files):
            data, fault = self._read(file)
            if data is None:
                return Finding(fault=fault, bytes=size)
            size += len(data)
            # If the hashes are correct, a copy of the file would have the same fault.
            todo = REBUILD if any(map(is_hash, file.hashes)) else REPLACE
            if fault is None and file is not raw:
                try:
                    data = decompressed(self._info, raw, data)  # without a third copy in memory
                    fault = _compare(raw, data, self._info.hashes, file=file.basename, todo=todo)
                except ShardCorruptError as error:
                    fault = Fault.of("damaged", file.basename, error, todo=todo)
            if fault is not None:
                return Finding(fault=fault, bytes=size)
            raws.append(data)
            del data
        decoded, fault = 0, None
        try:
            decoded, fault = self._raw(join_files(raws), files[-1].basename, todo)
        except ShardCorruptError as error:
            fault = Fault.of("damaged", files[-1].basename, error, todo=todo)
        return Finding(fault=fault, bytes=size, decoded=decoded)

    def _read(self, file: FileInfo) -> tuple[bytes | None, Fault | None]:
        """Return the bytes of a file (None if they cannot be read), and its fault if it has one."""
        name = file.basename
        try:
            data = read_bytes(self._store, name, file.bytes, self._retry)
        except ShardCorruptError as error:  # the size is wrong; the remedy in this error is for training runs
            return None, self.size(file) or Fault.of("size", name, error)
        except (MixstreamError, OSError) as error:
            return None, Fault.of_store(name, error)
        return data, _compare(file, data, self._info.hashes, file=name, todo=REPLACE)

    def _raw(self, raw: bytes, name: str, todo: str) -> tuple[int, Fault | None]:
        """Check the raw bytes of the shard; returns the number of samples that decode, and the fault."""
        info = self._info
        offsets = read_offsets(raw, info, where=name)
        info = without_pickles(info, allow=self._depth.allow_unsafe_types)
        view, good, bad, first = memoryview(raw), 0, 0, None
        for row in self._depth.rows(info.samples):
            try:
                sample = decode_sample(view[offsets[row] : offsets[row + 1]], info, where=f"sample {row}")
                if self._look is not None:
                    self._look(row, sample)
                good += 1
            except ConfigError:  # a package is missing; the sample may be good
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
    """Compare `data` with every hash in the index; unknown algorithms are skipped."""
    part = "" if info.basename == file else "decompressed: "
    if missing := [hash_ for hash_ in promised if hash_ not in info.hashes]:
        what = f"{part}the index declares the hash {missing[0]} but has no value for it"
        return Fault(kind="index", file=file, what=what, todo=TODO["index"])
    for hash_, expected in info.hashes.items():
        if is_hash(hash_) and (found := hash_hex(hash_, data)) != expected:
            return Fault(kind="hash", file=file, what=f"{part}{hash_} is {found}, the index says {expected}", todo=todo)
    return None
