"""Rows of a domain -> features, part by part.

Rules. A part is whole shards, and rows that are differentiated together are always of one shard, counted from its
first row, so features have the same bits for any number of parts (on one kind of machine, under one `memory`). A part
that is complete is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.selection import FAILED, SCORED, TOO_SHORT, DomainRows, ScoresWriter, provenance
from mixstream.selection.datamodels import Features, Proxy
from mixstream.storage import place_of

from ..shared.options import Reading
from .settings import Settings

ROWS_AT_ONCE = 256
"""Rows that are read, differentiated and written before progress is shown."""


@dataclass(frozen=True, kw_only=True)
class FeatureTask:
    """One part of one domain.

    Attributes:
        name: of the domain.
        url: of its dataset.
        tokenizer: what the dataset's index says of its tokenizer.
        out: directory of the domain's features.
        settings: how.
        part: (i, n).
        reading: how its shards are read.
        overwrite: replace what is there.
    """

    name: str
    url: str
    tokenizer: Mapping[str, Any]
    out: Path
    settings: Settings
    part: tuple[int, int]
    reading: Reading
    overwrite: bool

    def __str__(self) -> str:
        return f"{self.name}, part {self.part[0]}/{self.part[1]}"

    def rows(self) -> DomainRows:
        """Open the dataset."""
        return self.reading.open(self.url, name=self.name)

    def made(self, rows: DomainRows) -> dict[str, Any]:
        """Return the provenance of the features."""
        return provenance(
            {**self.settings.inputs, "dataset": rows.table.digest},
            models=self.settings.places,
            device=self.settings.device,
            memory=self.settings.memory,
            tokenizer=dict(self.tokenizer),
            dataset=place_of(self.url),
        )


def make_features(task: FeatureTask, advance: Callable[[int], None]) -> None:
    """Write the features of one part."""
    rows, proxies = task.rows(), task.settings.load()
    writer = ScoresWriter(
        task.out,
        domain=task.name,
        table=rows.table,
        columns=task.settings.columns(),
        made=task.made(rows),
        part=task.part,
        overwrite=task.overwrite,
    )
    with writer:
        blocks = rows.blocks(writer.first_shard, writer.end_shard, column=task.settings.column, size=ROWS_AT_ONCE)
        for block in blocks:
            values, flags = columns_of(proxies, block.values, task.settings)
            writer.write(int(block.ordinal_N[0]), values, flags)
            advance(len(block.values))
        for shard, fingerprint in rows.fingerprints.items():
            writer.fingerprint(shard, fingerprint)


def columns_of(
    proxies: Sequence[Proxy], rows: Sequence[NDArray[np.integer]], settings: Settings
) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Return the columns of some rows, and their flags: a row is scored if every proxy has its gradient."""
    cut = [settings.cut(np.asarray(row)) for row in rows]
    made = [proxy.features(cut) for proxy in proxies]
    columns: dict[str, Any] = {"n_tokens": np.array([len(row) for row in cut], np.uint32)}
    for member, features in enumerate(made):
        columns[f"phi.{member}"] = features.phi_NF
        if settings.is_weighted:
            columns[f"one_minus_p.{member}"] = features.one_minus_p_N
    return columns, _flags(made, columns, settings)


def _flags(made: Sequence[Features], columns: dict[str, Any], settings: Settings) -> NDArray[np.uint8]:
    flags_MN = np.stack([features.flags_N for features in made])
    flags_N = np.where((flags_MN == TOO_SHORT).any(0), TOO_SHORT, SCORED).astype(np.uint8)
    flags_N[(flags_MN == FAILED).any(0)] = FAILED
    if settings.dtype == "f2":  # a gradient that float16 cannot hold
        for member in range(settings.members):
            largest_N = np.abs(columns[f"phi.{member}"]).max(axis=1)
            flags_N[largest_N > np.finfo(np.float16).max] = FAILED
    return flags_N
