"""mosaicml-streaming over the same kind of MDS shards, by its own writer."""

from __future__ import annotations

import atexit
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peer_corpus import DOMAINS, SEQ, Corpus

PACKAGES = ("mosaicml-streaming",)
SETTINGS: list[dict[str, Any]] = [
    {"num_workers": workers, "shuffle_algo": algo} for workers in (0, 1, 2) for algo in ("py1e", "py1s")
]


def convert(corpus: Corpus, out: Path) -> None:
    """Write MDS shards of the default size."""
    from streaming import MDSWriter

    for d in range(DOMAINS):
        with MDSWriter(columns={"tokens": f"ndarray:uint16:{SEQ}"}, out=str(out / str(d))) as writer:
            for row in corpus.tokens(d):
                writer.write({"tokens": row})


def batches(
    corpus: Corpus, data: Path, *, batch_size: int, dtype: str, num_workers: int, shuffle_algo: str
) -> Iterator[torch.Tensor]:
    """Yield the batches of one epoch after another; torch's collate keeps uint16, and `.long()` widens a batch."""
    from streaming import Stream, StreamingDataLoader, StreamingDataset

    own = data / f"process-{os.getpid()}"  # what a killed process leaves in shared memory refuses its directories
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    for d in range(DOMAINS):
        shutil.copytree(data / str(d), own / str(d), copy_function=os.link)
    streams = [Stream(local=str(own / str(d)), proportion=weight) for d, weight in enumerate(corpus.weights)]
    dataset = StreamingDataset(streams=streams, batch_size=batch_size, shuffle=True, shuffle_algo=shuffle_algo)
    loader = StreamingDataLoader(
        dataset, batch_size=batch_size, num_workers=num_workers, drop_last=True, persistent_workers=num_workers > 0
    )
    while True:
        for batch in loader:
            yield batch["tokens"].long() if dtype == "int64" else batch["tokens"]
