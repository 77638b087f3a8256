"""The selection as training reads it: which rows arrive, and which shards are needed for it.

The rows are read from a second directory, which has the index and only those shards of which a row is kept. A loader
that asked for any other would fail.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mixstream as ms
from mixstream.selection import Selection

ROWS = 32
"""Rows of a batch."""


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """One epoch over a selection.

    Attributes:
        kept: rows that the selection keeps.
        arrived: rows that arrived.
        repeated: rows among them that fill the last batch.
        missing: kept rows that did not arrive.
        others: rows that arrived and are not kept.
        shards: shards of the dataset.
        read: shards of which a row is kept; the others did not exist for the loader.
        bytes: of all shards.
        bytes_read: of the shards that were read.
    """

    kept: int
    arrived: int
    repeated: int
    missing: int
    others: int
    shards: int
    read: int
    bytes: int
    bytes_read: int

    @property
    def exact(self) -> bool:
        """Whether every kept row arrived, and no other row."""
        return self.missing == self.others == 0 and self.repeated < ROWS


def stream_kept(
    shards: Path, selections: Mapping[str, Path], rows: Mapping[str, list[bytes]], served: Path, *, seed: int
) -> Streamed:
    """Read one epoch, and compare.

    Args:
        shards: what `mixstream convert` wrote.
        selections: of each domain.
        rows: the bytes of all stored rows of each domain, in order.
        served: directory for the shards that are needed.
        seed: of the order.
    """
    opened = {name: Selection.open(path) for name, path in selections.items()}
    shutil.rmtree(served, ignore_errors=True)
    sizes: list[tuple[int, bool]] = []
    for name, selection in opened.items():
        sizes += _serve(shards / name / "train", served / name / "train", selection)
    expected = Counter((name, rows[name][row]) for name, each in opened.items() for row in each.ordinals().tolist())
    arrived = read_epoch(served, {name: selections[name] for name, each in opened.items() if each.kept}, seed=seed)
    return Streamed(
        kept=expected.total(),
        arrived=arrived.total(),
        repeated=sum(count - expected[row] for row, count in arrived.items() if count > expected[row] > 0),
        missing=(expected - arrived).total(),
        others=sum(count for row, count in arrived.items() if row not in expected),
        shards=len(sizes),
        read=sum(needed for _, needed in sizes),
        bytes=sum(size for size, _ in sizes),
        bytes_read=sum(size for size, needed in sizes if needed),
    )


def read_epoch(served: Path, selections: Mapping[str, Path], *, seed: int) -> Counter[tuple[str, bytes]]:
    """Read each kept row once, shuffled, as a training would; returns (domain, tokens) -> how often they arrived."""
    streams = [
        ms.Stream(name=name, remote=str(served / name), split="train", selection=selection)
        for name, selection in selections.items()
    ]
    dataset = ms.StreamingDataset(streams=streams, batch_size=ROWS, shuffle=True, shuffle_seed=seed)
    arrived: Counter[tuple[str, bytes]] = Counter()
    with ms.Loader(dataset, widen=False) as loader:
        for batch in loader:
            tokens_BT = np.asarray(batch["tokens"])
            arrived.update(
                (dataset.domain_names[domain], tokens_T.tobytes()) for domain, tokens_T in zip(batch.domain, tokens_BT)
            )
    return arrived


def _serve(source: Path, target: Path, selection: Selection) -> list[tuple[int, bool]]:
    """Link the index and the shards that are needed; returns (bytes, whether it is needed) of every shard."""
    target.mkdir(parents=True)
    shutil.copy(source / "index.json", target)
    found = []
    for shard, kept in zip(selection.table.shards, selection.counts_SK.sum(axis=1).tolist()):
        if kept:
            (target / shard.name).parent.mkdir(parents=True, exist_ok=True)
            _link(source / shard.name, target / shard.name)
        found.append((shard.raw_bytes, kept > 0))
    return found


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy(source, target)
