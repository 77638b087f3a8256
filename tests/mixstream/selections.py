"""Selections and scores of small datasets, for tests of what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import mixstream as ms
from mixstream.selection import (
    Column,
    Scores,
    ScoresWriter,
    Selection,
    ShardTable,
    fingerprint,
    provenance,
    write_buckets,
    write_selection,
)

MADE = provenance({"test": "a selection"})


def table_of(place: Path | str) -> ShardTable:
    """Return the shards of the dataset at `place`, with their fingerprints."""
    domain = ms.Stream(remote=str(place)).open(allow_unsafe_types=False)
    prints = {n: fingerprint(domain.container, n, domain.map(n)) for n in range(len(domain.shards))}
    return ShardTable.of(domain.shards).with_fingerprints(prints)


def keep(out: Path, place: Path | str, kept: Any, *, domain: str = "web", table: ShardTable | None = None) -> Selection:
    """Write the selection of the rows `kept` (a mask, or ordinals) of the dataset at `place`."""
    table = table_of(place) if table is None else table
    return write_selection(out, domain=domain, table=table, kept=np.asarray(kept), rule={}, parents={}, made=MADE)


def buckets(out: Path, place: Path | str, bucket: Any, names: list[str], *, domain: str = "web") -> Selection:
    """Write buckets of the dataset at `place`."""
    return write_buckets(
        out,
        domain=domain,
        table=table_of(place),
        bucket=np.asarray(bucket),
        names=names,
        rule={},
        parents={},
        made=MADE,
    )


def score(out: Path, place: Path | str, *, domain: str = "web", flags: Any = None, **columns: Any) -> Scores:
    """Write scores of all rows of the dataset at `place`: column -> values."""
    values = {name: np.asarray(column) for name, column in columns.items()}
    described = [Column(name=name, dtype=value.dtype.str) for name, value in values.items()]
    with ScoresWriter(out, domain=domain, table=table_of(place), columns=described, made=MADE) as writer:
        writer.write(0, values, flags)
    return Scores.open(out)


def bucket_names(place: str, by: str) -> list[str]:
    """Return the domains of a dataset that is split; for processes that start together."""
    each = [ms.Stream(remote=place, split_by=by)]
    return ms.StreamingDataset(streams=each, batch_size=4).domain_names
