"""grain over ArrayRecord files: each domain shuffled and repeated, mixed by weights, batched, read by threads.

ArrayRecord is grain's format for random access (with groups of one record, as its documentation asks). With
`batch="map"`, whole batches are the unit that threads read; with "iter", rows are, and are batched after that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_corpus import DOMAINS, SEQ, Corpus

PACKAGES = ("grain", "array-record")
SETTINGS: list[dict[str, Any]] = [
    {"threads": 16, "batch": "iter", "num_workers": 0},
    {"threads": 16, "batch": "map", "num_workers": 0},
    {"threads": 2, "batch": "map", "num_workers": 0},
    {"threads": 1, "batch": "map", "num_workers": 0},
    {"threads": 1, "batch": "map", "num_workers": 1},
    {"threads": 1, "batch": "map", "num_workers": 2},
]


def convert(corpus: Corpus, out: Path) -> None:
    """Write a file for each domain, a record for each row."""
    from array_record.python.array_record_module import ArrayRecordWriter

    for d in range(DOMAINS):
        writer = ArrayRecordWriter(str(out / f"{d}.array_record"), "group_size:1,uncompressed")
        for row in corpus.tokens(d):
            writer.write(row.tobytes())
        writer.close()


def join(records: Sequence[bytes], *, dtype: str) -> np.ndarray:
    """Return the rows of a batch."""
    return np.frombuffer(b"".join(records), np.uint16).reshape(-1, SEQ).astype(dtype)


def batches(
    corpus: Corpus, data: Path, *, batch_size: int, dtype: str, threads: int, batch: str, num_workers: int
) -> Iterator[torch.Tensor]:
    """Yield batches without end; they are joined and widened by one copy each."""
    import grain

    domains = [
        grain.MapDataset.source(grain.sources.ArrayRecordDataSource(str(data / f"{d}.array_record")))
        .seed(d)
        .shuffle()
        .repeat()
        for d in range(DOMAINS)
    ]
    rows = grain.MapDataset.mix(domains, weights=corpus.weights)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=500 if batch == "iter" else 4)
    joined = partial(join, dtype=dtype)
    if batch == "map":
        loader = rows.batch(batch_size, batch_fn=joined).to_iter_dataset(options)
    else:
        loader = rows.to_iter_dataset(options).batch(batch_size, batch_fn=joined)
    if num_workers:
        loader = loader.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    for tokens in loader:
        yield torch.from_numpy(tokens)
