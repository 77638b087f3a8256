"""A dataset of MDS, JSON, CSV, TSV or XSV shards as a source: its index stands for it, and its samples are records.

A slice has the samples that begin in its bytes, as `Slice` says: sample k of n begins at byte `size * k // n`, where
`size` is that of the raw shards. Each shard is checked against the size and the hash in the index before a sample of
it is used. Memory is bounded by two shards.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mixstream.errors import ShardCorruptError, StoreNotFoundError
from mixstream.formats import (
    Index,
    ShardInfo,
    check_index_hash,
    hash_hex,
    is_hash,
    join_files,
    parse_index,
    read_offsets,
)
from mixstream.storage import INDEX, Retry, Store, join, open_store

from ...shared.shards import decompressed, read_bytes
from ..files.source_files import Slice, SourceError, SourceFile, open_slice
from .reader import OnBad

_LARGEST_INDEX = 1 << 30
_RETRY = Retry()


def as_dataset(file: SourceFile) -> SourceFile | None:
    """Return the source that an index file stands for; None for another file of that name.

    Raises:
        IndexCorruptError: it is an index of shards, and not valid.
    """
    if PurePosixPath(file.path).name != INDEX or file.compression or file.size > _LARGEST_INDEX:
        return None
    with open_slice(file.whole) as stream:
        data = stream.read()
    if b'"shards"' not in data or b'"version"' not in data:
        return None
    index = parse_index(data, where=file.path)
    return replace(file, format="mds", size=max(sum(shard.raw_bytes for shard in index.shards), 1))


@dataclass(kw_only=True)
class MdsDataset:
    """A dataset that is read.

    Args:
        file: its index, as `as_dataset` returns it.
        store: its directory.
        index: what the index says.
    """

    file: SourceFile
    store: Store
    index: Index
    _starts: list[int] = field(init=False)
    """The first sample of each shard, and how many there are."""
    _raw: dict[int, tuple[bytes, np.ndarray]] = field(init=False, default_factory=dict)

    @classmethod
    def open(cls, file: SourceFile) -> MdsDataset:
        """Read the index again. Raises SourceError if it is another one than it was."""
        if file.stored is None:
            store = open_store(file.path.rpartition("/")[0])
        else:
            store = open_store(join(file.stored.directory, file.stored.name.rpartition("/")[0]))
        data = read_bytes(store, INDEX, None, _RETRY)
        index = parse_index(data, where=file.path)
        for algorithm in filter(is_hash, index.hashes):
            check_index_hash(data, algorithm, where=file.path)
        total = max(sum(shard.raw_bytes for shard in index.shards), 1)
        if total != file.size or (file.stored is None and os.stat(file.path).st_mtime_ns != file.mtime_ns):  # noqa: PTH116
            raise SourceError(
                f"{file.path}: the dataset was written again while it was being converted. When nothing writes to it "
                "any more, run the same command with --overwrite."
            )
        return cls(file=file, store=store, index=index)

    def __post_init__(self) -> None:
        self._starts = [0, *accumulate(shard.samples for shard in self.shards)]

    @property
    def shards(self) -> Sequence[ShardInfo]:
        """All shards, in order."""
        return self.index.shards

    @property
    def samples(self) -> int:
        """How many there are."""
        return self._starts[-1]

    @property
    def about(self) -> Mapping[str, Any]:
        """What `mixstream convert` says of the dataset; empty if another program wrote it."""
        about = self.index.extra.get("mixstream")
        return about if isinstance(about, dict) else {}

    def samples_of(self, source: Slice) -> tuple[int, int]:
        """Return the first sample of a slice, and the one behind its last."""
        count, size = self.samples, self.file.size
        return -(-source.start * count // size), count if source.stop == size else -(-source.stop * count // size)

    def parts(self, first: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield the shards with samples `first` to `end - 1`: number, its first sample, and which of its own."""
        at = bisect_right(self._starts, first) - 1
        for number in range(at, len(self.shards)):
            start, stop = self._starts[number : number + 2]
            low, high = max(first, start), min(end, stop)
            if low < high:
                yield number, start, low - start, high - start
            if stop >= end:
                return

    def read(self, number: int) -> tuple[bytes, np.ndarray]:
        """Return the raw bytes of a shard, checked, and its offsets; the last two are kept.

        Raises:
            ShardCorruptError: it is not what the index says.
            StoreError: it cannot be read.
        """
        if number not in self._raw:
            while len(self._raw) > 1:
                del self._raw[min(self._raw)]
            info = self.shards[number]
            raw = self._checked(info)
            self._raw[number] = raw, read_offsets(raw, info, where=info.raw.basename)
        return self._raw[number]

    def rows(self, number: int, low: int, high: int, on_bad: OnBad) -> Iterator[tuple[int, memoryview]]:
        """Yield samples `low` to `high - 1` of a shard, with their numbers in it; reports a shard that is bad."""
        info = self.shards[number]
        try:
            raw, offsets = self.read(number)
        except (ShardCorruptError, StoreNotFoundError) as error:
            on_bad(f"{self.file.path}, shard {info.raw.basename}: {error}; its {high - low} samples are lost")
            return
        view = memoryview(raw)
        for row in range(low, high):
            yield row, view[offsets[row] : offsets[row + 1]]

    def _checked(self, info: ShardInfo) -> bytes:
        files: list[bytes] = []
        for raw, packed in info.files:
            stored = packed or raw
            data = read_bytes(self.store, stored.basename, stored.bytes, _RETRY)
            algorithm = next((name for name in stored.hashes if is_hash(name)), None)
            if algorithm is not None and hash_hex(algorithm, data) != stored.hashes[algorithm]:
                raise ShardCorruptError(
                    f"{stored.basename}: its {algorithm} is not that in the index; fetch it again, or write it again"
                )
            files.append(decompressed(info, raw, data) if packed is not None else data)
        return join_files(files)
