"""Hugging Face `datasets`, map-style, over Arrow files.

`mix="interleave"` with `fetch="rows"` is the documented way: `interleave_datasets` and `DataLoader(dataset, batch_size,
shuffle=True)`. `fetch="batches"` takes a batch of rows by one look-up: a sampler of batches, and the DataLoader's own
batching off. With `mix="sampler"`, the domains are joined by `concatenate_datasets` and our own sampler draws the rows,
which spares the table of indices that interleaving leaves. The format "arrow" hands out the table, whose buffer is
copied into the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_corpus import DOMAINS, SEQ, Corpus

PACKAGES = ("datasets", "pyarrow")
SETTINGS: list[dict[str, Any]] = [
    {"num_workers": 0, "mix": "interleave", "fetch": "rows", "form": "torch"},
    {"num_workers": 2, "mix": "interleave", "fetch": "rows", "form": "torch"},
    {"num_workers": 0, "mix": "interleave", "fetch": "batches", "form": "numpy"},
    {"num_workers": 0, "mix": "sampler", "fetch": "batches", "form": "numpy"},
    {"num_workers": 0, "mix": "sampler", "fetch": "batches", "form": "arrow"},
    {"num_workers": 1, "mix": "sampler", "fetch": "batches", "form": "arrow"},
    {"num_workers": 2, "mix": "sampler", "fetch": "batches", "form": "arrow"},
]


def convert(corpus: Corpus, out: Path) -> None:
    """Write Arrow files of fixed-size lists of uint16."""
    import pyarrow as pa
    from datasets import Dataset, Features, Sequence, Value

    features = Features({"tokens": Sequence(Value("uint16"), length=SEQ)})
    for d in range(DOMAINS):
        flat = pa.array(np.asarray(corpus.tokens(d)).reshape(-1))
        table = pa.table({"tokens": pa.FixedSizeListArray.from_arrays(flat, SEQ)})
        Dataset(table).cast(features).save_to_disk(str(out / str(d)))


def batches(
    corpus: Corpus, data: Path, *, batch_size: int, dtype: str, num_workers: int, mix: str, fetch: str, form: str
) -> Iterator[torch.Tensor]:
    """Yield the batches of one epoch after another; the format casts them, or the copy out of the table."""
    from datasets import concatenate_datasets, interleave_datasets, load_from_disk
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler

    domains = [load_from_disk(str(data / str(d))) for d in range(DOMAINS)]
    if mix == "interleave":
        rows = interleave_datasets(domains, probabilities=corpus.weights, seed=0, stopping_strategy="first_exhausted")
    else:
        rows = concatenate_datasets(domains)
    cast = {"torch": {"dtype": getattr(torch, dtype)}, "numpy": {"dtype": np.dtype(dtype)}, "arrow": {}}[form]
    rows = rows.with_format(form, **cast)
    collate = partial(as_tensor, dtype=dtype)
    if fetch == "rows":
        loader = DataLoader(rows, batch_size, shuffle=True, num_workers=num_workers, drop_last=True)
    elif mix == "interleave":
        sampler = BatchSampler(RandomSampler(rows), batch_size, drop_last=True)
        loader = DataLoader(rows, batch_size=None, sampler=sampler, num_workers=num_workers, collate_fn=collate)
    else:
        drawn = ((domain * corpus.rows + row).tolist() for domain, row in corpus.draws(batch_size))
        loader = DataLoader(rows, batch_size=None, sampler=drawn, num_workers=num_workers, collate_fn=collate)
    while True:
        for batch in loader:
            yield batch["tokens"] if fetch == "rows" else batch


def as_tensor(batch: Any, *, dtype: str) -> torch.Tensor:
    """Return the tokens of a batch, which is a dictionary of arrays or a table."""
    if isinstance(batch, dict):
        return torch.from_numpy(batch["tokens"])
    tokens = batch["tokens"].combine_chunks().flatten().to_numpy().reshape(-1, SEQ)
    return torch.from_numpy(tokens.astype(dtype))
