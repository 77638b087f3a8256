"""`mixstream.Loader` over MDS shards, as `mixstream convert` writes them. It has one thread, and nothing to set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peer_corpus import DOMAINS, SEQ, Corpus

PACKAGES = ("mixstream-data",)
SETTINGS: list[dict[str, Any]] = [{}]


def convert(corpus: Corpus, out: Path) -> None:
    """Write MDS shards of the default size."""
    import mixstream as ms

    for d in range(DOMAINS):
        with ms.MDSWriter(columns={"tokens": f"ndarray:uint16:{SEQ}"}, out=str(out / str(d))) as writer:
            for row in corpus.tokens(d):
                writer.write({"tokens": row})


def make_dataset(corpus: Corpus, data: Path, batch_size: int) -> Any:
    """Return the shuffled mixture."""
    import mixstream as ms

    streams = [ms.Stream(local=str(data / str(d)), proportion=weight) for d, weight in enumerate(corpus.weights)]
    return ms.StreamingDataset(streams=streams, batch_size=batch_size, shuffle=True, drop_last=True)


def batches(corpus: Corpus, data: Path, *, batch_size: int, dtype: str) -> Iterator[torch.Tensor]:
    """Yield the batches of one epoch after another."""
    import mixstream as ms

    loader = ms.Loader(make_dataset(corpus, data, batch_size), widen=dtype == "int64")
    while True:
        for batch in loader:
            yield batch["tokens"]
