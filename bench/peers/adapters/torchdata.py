"""A gather of our own over mapped flat files, under `torchdata.nodes`: what a skilled user would write by hand.

A source yields the rows of each batch (domain, row), drawn by the weights from a permutation of each domain; a
`ParallelMapper` of threads copies them; a `Prefetcher` keeps batches ready. It knows nothing but rows of equal width in
one flat file a domain: no shards, no cache, no hashes, no state that resumes on another number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_corpus import DOMAINS, Corpus

PACKAGES = ("torchdata",)
SETTINGS: list[dict[str, Any]] = [{"num_workers": workers, "prefetch": 4} for workers in (0, 1, 2)]


def convert(corpus: Corpus, out: Path) -> None:
    """Write nothing: the corpus's own files are flat."""


def gather(at: tuple[np.ndarray, np.ndarray], *, tokens: list[np.ndarray], dtype: str) -> torch.Tensor:
    """Copy the rows of a batch, by domain."""
    domain, row = at
    out = torch.empty((len(row), tokens[0].shape[1]), dtype=getattr(torch, dtype))
    into = out.numpy()
    for d in range(DOMAINS):
        to = np.flatnonzero(domain == d)
        into[to] = tokens[d][row[to]]
    return out


def batches(
    corpus: Corpus, data: Path, *, batch_size: int, dtype: str, num_workers: int, prefetch: int
) -> Iterator[torch.Tensor]:
    """Yield batches without end."""
    from torchdata.nodes import IterableWrapper, Loader, Mapper, ParallelMapper, Prefetcher

    tokens = [np.asarray(corpus.tokens(d)) for d in range(DOMAINS)]
    copy, source = partial(gather, tokens=tokens, dtype=dtype), IterableWrapper(corpus.draws(batch_size))
    if num_workers:
        node = Prefetcher(ParallelMapper(source, copy, num_workers=num_workers, method="thread"), prefetch)
    else:
        node = Mapper(source, copy)
    yield from Loader(node)
