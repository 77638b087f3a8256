"""One part of a resharding: rows, of old shards or scattered, become new shards; then the part is recorded.

This is what a worker runs. It needs only its task, so any executor can run it, and again after a kill. Memory is that
of an old shard and a new one; with --shuffle-seed, that of the rows of the part.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mixstream.formats import FileInfo, ShardInfo, compress, encode_shard, extension, hash_hex
from mixstream.storage import Retry, open_store, write_whole

from ..shared.console import Advance
from .records import Records
from .rows import Block, Conversion, blocks
from .shuffled import Scattered, scatter


@dataclass(frozen=True, kw_only=True)
class Source:
    """The rows that are written; picklable.

    Attributes:
        url: of the old dataset.
        shards: its shards.
        entry: of a new shard.
        retry: of requests.
    """

    url: str
    shards: Sequence[ShardInfo]
    entry: ShardInfo
    retry: Retry

    def blocks(self, begin: int, end: int) -> Iterator[tuple[int, Block]]:
        """Yield new rows [begin, end) in the old order, with the number of the first of each block."""
        store = open_store(self.url, timeout=self.retry.timeout)

        def convert(info: ShardInfo, samples: Block) -> Block:
            where = f"{store.url}/{info.raw.basename}"
            return Conversion.between(info, self.entry).convert(samples, where=where)

        return blocks(store, self.shards, begin, end, convert, self.retry)


@dataclass(frozen=True, kw_only=True)
class ScatterTask:
    """Rows that are to be scattered into a directory."""

    source: Source
    rows: tuple[int, int]
    directory: Path
    seed: int

    def __str__(self) -> str:
        """Its name in error messages."""
        return f"the scattering of rows {self.rows[0]} to {self.rows[1]} of {self.source.url}"


@dataclass(frozen=True, kw_only=True)
class ShardsTask:
    """Consecutive new shards of one dataset.

    Attributes:
        source: the rows.
        out: URL of the output.
        name: of the dataset below it; "" for the output itself.
        shards: numbers of the shards, first and end.
        borders: first row of each of them, and the row after the last.
        scattered: where all rows lie by their keys; none for the old order.
        order: file that gets the old numbers of these rows, if they are scattered.
        identity: of the job.
        about: its options.
    """

    source: Source
    out: str
    name: str
    shards: tuple[int, int]
    borders: Sequence[int]
    scattered: tuple[Path, ...] = ()
    order: Path | None = None
    identity: str
    about: Mapping[str, Any]

    def __str__(self) -> str:
        """Its name in error messages."""
        return f"shards {self.shards[0]} to {self.shards[1]} of {self.name or self.out}"

    def records(self) -> Records:
        """Return the records of the output."""
        retry = self.source.retry
        store = open_store(self.out, timeout=retry.timeout)
        return Records(store=store, retry=retry, identity=self.identity, about=self.about)


def scatter_rows(task: ScatterTask, advance: Advance) -> None:
    """Scatter some rows; an error gets a note that names them."""
    try:
        rows: list[np.ndarray] = []
        samples: Block = []
        for first, block in task.source.blocks(*task.rows):
            rows.append(np.arange(first, first + len(block), dtype=np.int64))
            samples += block
            advance(sum(map(len, block)))
        scatter(task.directory, np.concatenate(rows), samples, task.seed)
    except BaseException as error:
        error.add_note(f"while doing {task}")
        raise


def write_shards(task: ShardsTask, advance: Advance) -> int:
    """Write the shards of a part and record it; returns the bytes of its files. An error gets a note that names it."""
    try:
        records = task.records()
        entries = [
            _store(records, task, number, samples)
            for number, samples in zip(range(*task.shards), _samples(task, advance), strict=True)
        ]
        records.record(task.name, task.shards, entries)
        return sum((entry.zip or entry.raw).bytes for entry in entries)
    except BaseException as error:
        error.add_note(f"while writing {task}")
        raise


def _samples(task: ShardsTask, advance: Advance) -> Iterator[Block]:
    """Yield the samples of each new shard."""
    if task.scattered:
        numbers, samples = Scattered(directories=task.scattered).at(task.borders[0], task.borders[-1])
        if task.order is not None:
            _save(task.order, numbers)
        yield from _cut([(task.borders[0], samples)], task.borders, advance)
    else:
        yield from _cut(task.source.blocks(task.borders[0], task.borders[-1]), task.borders, advance)


def _cut(found: Any, borders: Sequence[int], advance: Advance) -> Iterator[Block]:
    ends = iter(borders[1:])
    end, held, row = next(ends, None), [], borders[0]
    for _, block in found:
        at = 0
        while end is not None and row + len(block) - at >= end:
            held += block[at : at + end - row]
            at, row = at + end - row, end
            advance(sum(map(len, held)))
            yield held
            end, held = next(ends, None), []
        held += block[at:]
        row += len(block) - at


def _store(records: Records, task: ShardsTask, number: int, samples: Block) -> ShardInfo:
    """Write one shard, compressed if the entry says so, and return its entry."""
    entry = task.source.entry
    data = encode_shard(samples, entry.config())
    basename = f"shard.{number:05}.mds"
    raw, packed = _describe(entry, basename, data), None
    if entry.compression is not None:
        basename, data = f"{basename}.{extension(entry.compression)}", compress(entry.compression, data)
        packed = _describe(entry, basename, data)
    records.write(f"{task.name}/{basename}" if task.name else basename, data)
    return replace(entry, samples=len(samples), raw=raw, zip=packed)


def _describe(entry: ShardInfo, basename: str, data: bytes) -> FileInfo:
    hashes = {name: hash_hex(name, data) for name in entry.hashes}
    return FileInfo(basename=basename, bytes=len(data), hashes=hashes)


def _save(path: Path, numbers: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path, suffix=f".{time.monotonic_ns()}.partial") as file:
        np.save(file, numbers)
