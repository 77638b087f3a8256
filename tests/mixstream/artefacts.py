"""What the tests of selections share: a table of shards, and entries of a dataset that has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixstream.formats import FileInfo, ShardEntry
from mixstream.selection import Column, Scores, ScoresWriter, Selection, ShardTable, merge_scores, write_selection

MADE = {"inputs": {"seed": 0}}
QUALITY = Column(name="quality", dtype="f4", higher_is_better=True)
VECTORS = Column(name="vectors", dtype="f2", shape=(3,))


def entry(name: str, samples: int, size: int = 100, **hashes: str) -> ShardEntry:
    """Return a shard of a dataset."""
    return ShardEntry(
        samples=samples, column_names=("text",), column_encodings=("str",), column_sizes=(None,), compression=None,
        hashes=tuple(hashes), raw=FileInfo(basename=name, bytes=size, hashes=hashes), zip=None,
    )  # fmt: skip


def entries(samples: Sequence[int]) -> list[ShardEntry]:
    """Return shards a.mds, b.mds, … of so many rows each."""
    return [entry(f"{chr(97 + number)}.mds", rows, 1000 + number) for number, rows in enumerate(samples)]


def table_of(*samples: int) -> ShardTable:
    return ShardTable.of(entries(samples))


def write_parts(path: Path, table: ShardTable, values: Any, *, parts: int = 1, made: Any = MADE, **kw: Any) -> Path:
    """Write every part of the column `quality`."""
    for i in range(parts):
        with ScoresWriter(
            path, domain="web", table=table, columns=[QUALITY], made=made, part=(i, parts), **kw
        ) as writer:
            writer.write(writer.begin, {"quality": np.asarray(values)[writer.begin : writer.end]})
    return path


def write_scores(path: Path, table: ShardTable, values: Any, **kw: Any) -> Scores:
    return merge_scores(write_parts(path, table, values, **kw))


def select(path: Path, table: ShardTable, kept: Any, **kw: Any) -> Selection:
    return write_selection(
        path, **{"domain": "web", "table": table, "kept": kept, "rule": {}, "parents": {}, "made": MADE, **kw}
    )


def ordinals_at(url: str) -> list[int]:
    """Return what a child reads."""
    return Selection.open(url, domain="web").ordinals().tolist()
