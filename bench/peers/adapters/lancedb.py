"""LanceDB: its `StreamingDataset` in torch's DataLoader, and its map-style `Permutation` with a sampler of our own.

The streaming dataset reads one table in an order that it shuffles, and knows no weights: all domains lie in one table,
in equal shares. Its `transform` turns a read of rows into a tensor; the DataLoader stacks rows, and
`.long()` widens a batch. The permutation takes
a whole batch of rows, drawn by our sampler with the weights, by one look-up.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_corpus import DOMAINS, SEQ, Corpus

PACKAGES = ("lancedb", "pylance")
SETTINGS: list[dict[str, Any]] = [
    {"face": "streaming", "read": 64, "num_workers": 0},
    {"face": "streaming", "read": 256, "num_workers": 0},
    {"face": "streaming", "read": 64, "num_workers": 1},
    {"face": "streaming", "read": 64, "num_workers": 2},
    {"face": "permutation", "read": 256, "num_workers": 0},
]


def convert(corpus: Corpus, out: Path) -> None:
    """Write one table of fixed-size lists of uint16."""
    import lancedb
    import pyarrow as pa

    database, table = lancedb.connect(str(out)), None
    for d in range(DOMAINS):
        flat = pa.array(np.asarray(corpus.tokens(d)).reshape(-1))
        rows = pa.table({"tokens": pa.FixedSizeListArray.from_arrays(flat, SEQ)})
        if table is None:
            table = database.create_table("rows", rows)
        else:
            table.add(rows)


def as_tensor(batch: Any, *, dtype: str) -> torch.Tensor:
    """Return the tokens of a record batch."""
    return torch.from_numpy(batch["tokens"].flatten().to_numpy().reshape(-1, SEQ).astype(dtype))


def batches(
    corpus: Corpus, data: Path, *, batch_size: int, dtype: str, face: str, read: int, num_workers: int
) -> Iterator[torch.Tensor]:
    """Yield the batches of one epoch after another."""
    import lancedb

    table = lancedb.connect(str(data)).open_table("rows")
    if face == "permutation":
        from lancedb.permutation import Permutation

        rows = Permutation.identity(table).with_transform(partial(as_tensor, dtype=dtype))
        for domain, row in corpus.draws(batch_size):
            yield rows.__getitems__((domain * corpus.rows + row).tolist())
    from lancedb.streaming import StreamingDataset

    epoch, context = 0, {"multiprocessing_context": "forkserver"} if num_workers else {}
    while True:
        dataset = StreamingDataset(
            table,
            num_splits=max(num_workers, 1),
            epoch=epoch,
            read_batch_size=read,
            transform=partial(as_tensor, dtype="uint16"),
        )
        loader = torch.utils.data.DataLoader(dataset, batch_size, num_workers=num_workers, drop_last=True, **context)
        for batch in loader:
            yield batch.long() if dtype == "int64" else batch
        epoch += 1
