"""litData over token chunks, as its page on LLM pretraining has it: `optimize` and `TokensLoader`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peer_corpus import DOMAINS, SEQ, Corpus

PACKAGES = ("litdata",)
SETTINGS: list[dict[str, Any]] = [
    {"num_workers": workers, "item_shuffle_window": window} for workers in (0, 1, 2) for window in ("auto", "full")
]


def rows_of(part: range, *, corpus: Corpus, domain: int) -> Iterator[torch.Tensor]:
    """Yield the tokens of some rows."""
    for row in corpus.tokens(domain)[part.start : part.stop]:
        yield torch.from_numpy(row.copy())


def convert(corpus: Corpus, out: Path) -> None:
    """Write chunks of 16 MiB of tokens."""
    from litdata import TokensLoader, optimize

    for d in range(DOMAINS):
        optimize(
            fn=partial(rows_of, corpus=corpus, domain=d),
            inputs=[range(at, min(at + 4096, corpus.rows)) for at in range(0, corpus.rows, 4096)],
            output_dir=str(out / str(d)),
            chunk_size=SEQ * 4096,
            item_loader=TokensLoader(),
            num_workers=1,
            reorder_files=False,
            verbose=False,
        )


def batches(
    corpus: Corpus, data: Path, *, batch_size: int, dtype: str, num_workers: int, item_shuffle_window: str
) -> Iterator[torch.Tensor]:
    """Yield the batches of one epoch after another; `.long()` widens a batch of uint16.

    A chunk is shuffled in blocks of 256 rows ("auto", the default), or as a whole ("full").
    """
    from litdata import CombinedStreamingDataset, StreamingDataLoader, StreamingDataset, TokensLoader

    domains = [
        StreamingDataset(
            str(data / str(d)),
            item_loader=TokensLoader(block_size=SEQ),
            shuffle=True,
            drop_last=True,
            item_shuffle_window=item_shuffle_window,
        )
        for d in range(DOMAINS)
    ]
    mixture = CombinedStreamingDataset(domains, weights=corpus.weights, iterate_over_all=False)
    loader = StreamingDataLoader(
        mixture, batch_size=batch_size, num_workers=num_workers, drop_last=True, persistent_workers=num_workers > 0
    )
    while True:
        for batch in loader:
            if len(batch) == batch_size:  # an epoch may end within a batch
                yield batch.long() if dtype == "int64" else batch
