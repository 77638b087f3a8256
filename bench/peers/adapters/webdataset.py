"""webdataset over tar files: shards in random order, a buffer that shuffles, `RandomMix`, batches made in the worker.

A sample is the raw bytes of a row, which is cheaper to decode than `.npy`. Its order is no permutation: rows come from
the few shards that are open, through a buffer of `buffer` rows a domain.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_corpus import DOMAINS, SEQ, Corpus

PACKAGES = ("webdataset",)
SETTINGS: list[dict[str, Any]] = [{"num_workers": workers, "buffer": 1000} for workers in (0, 1, 2)]
SHARDS = 8  # of each domain


def convert(corpus: Corpus, out: Path) -> None:
    """Write tar files of the rows' bytes."""
    import webdataset as wds

    for d in range(DOMAINS):
        with wds.ShardWriter(str(out / f"{d}-%04d.tar"), maxcount=-(-corpus.rows // SHARDS), verbose=0) as writer:
            for i, row in enumerate(corpus.tokens(d)):
                writer.write({"__key__": f"{i:08}", "tokens.bin": row.tobytes()})


def join(rows: list[tuple[bytes]], *, dtype: str) -> torch.Tensor:
    """Return the rows of a batch."""
    tokens = np.frombuffer(b"".join(row for (row,) in rows), np.uint16).reshape(-1, SEQ)
    return torch.from_numpy(tokens.astype(dtype))


def batches(
    corpus: Corpus, data: Path, *, batch_size: int, dtype: str, num_workers: int, buffer: int
) -> Iterator[torch.Tensor]:
    """Yield batches without end; they are joined and widened by one copy each."""
    import webdataset as wds

    domains = [
        wds.WebDataset(sorted(map(str, data.glob(f"{d}-*.tar"))), shardshuffle=100)
        .repeat()
        .shuffle(buffer)
        .to_tuple("tokens.bin")
        for d in range(DOMAINS)
    ]
    joined = partial(join, dtype=dtype)
    mixture = wds.DataPipeline(
        wds.RandomMix(domains, corpus.weights), wds.batched(batch_size, partial=False, collation_fn=joined)
    )
    yield from wds.WebLoader(mixture, batch_size=None, num_workers=num_workers)
