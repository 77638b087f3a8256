"""Reads all rows or samples of streams, for tests of token files and of columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import mixstream as ms


def flat(documents: Iterable[Sequence[int]]) -> list[int]:
    """Return the tokens of documents, one after the other."""
    return [token for document in documents for token in document]


def dataset_of(*streams: ms.Stream, **kw: Any) -> ms.StreamingDataset:
    """Return a dataset of streams, in order, with batches of four rows."""
    return ms.StreamingDataset(streams=list(streams), **{"batch_size": 4, "shuffle": False, **kw})


def read_rows(*streams: ms.Stream, **kw: Any) -> list[list[int]]:
    """Return the rows of an epoch, in order, without those that fill up its last batch."""
    dataset = dataset_of(*streams, **kw)
    with ms.Loader(dataset) as loader:
        rows = [row for batch in loader for row in batch["tokens"].tolist()]
    return rows[: dataset.size]


def samples_of(stream: ms.Stream) -> list[list[int]]:
    """Return the tokens of all samples, by number."""
    dataset = dataset_of(stream)
    return [dataset[i]["tokens"].tolist() for i in range(dataset.size)]
