"""`mixstream.StreamingDataset` in a plain `torch.utils.data.DataLoader`, over the shards that `loader` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peer_corpus import Corpus

from adapters import loader as shards

PACKAGES = ("mixstream-data",)
SETTINGS: list[dict[str, Any]] = [{"num_workers": 0}, {"num_workers": 1}, {"num_workers": 2}]


def convert(corpus: Corpus, out: Path) -> None:
    """Write what `loader` reads, unless it is there."""
    if not out.with_name("loader").exists():
        shards.convert(corpus, out.with_name("loader"))


def batches(corpus: Corpus, data: Path, *, batch_size: int, dtype: str, num_workers: int) -> Iterator[torch.Tensor]:
    """Yield the batches of one epoch after another; torch's collate keeps uint16, and `.long()` widens a batch."""
    dataset = shards.make_dataset(corpus, data.with_name("loader"), batch_size)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size, num_workers=num_workers, drop_last=True, persistent_workers=num_workers > 0
    )
    while True:
        for batch in loader:
            yield batch["tokens"].long() if dtype == "int64" else batch["tokens"]
