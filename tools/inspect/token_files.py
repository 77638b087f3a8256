"""Token files: what `mixstream inspect` says of them, and some of their rows or documents.

Of the tokens, only those of the samples that are shown are fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mixstream.formats import TokenStore
from mixstream.selection import DomainRows
from mixstream.storage import Retry, StoredFile, open_store

from .samples import LONGEST, Sample


def describe_tokens(rows: DomainRows) -> dict[str, Any]:
    """Return the description of token files, as that of a dataset from its index."""
    container = rows.domain.container
    assert isinstance(container, TokenStore)
    sizes = [shard.raw.bytes for shard in container.shards]
    layouts = {shard.column_encodings: shard.columns for shard in container.shards}
    return {
        "shards": len(sizes),
        "samples": rows.table.rows,
        "tokens": sum(file.tokens for file in container.index.files) - container.dropped,
        "tokens_from": "files",
        "raw_bytes": sum(file.bytes for file in container.index.files),
        "packed_bytes": None,
        "smallest_shard": min(sizes, default=None),
        "largest_shard": max(sizes, default=None),
        "formats": [container.index.kind],
        "compression": ["none"],
        "hashes": [],
        "columns": list(layouts.values()),
        "about": {},
        "files": len(container.index.files),
        "dropped_tokens": container.dropped,
        "samples_shown": [],
    }


def read_token_samples(rows: DomainRows, count: int, *, retry: Retry) -> Sequence[Sample]:
    """Return `count` rows or documents (or all, if there are fewer), spread over the first shard.

    Raises:
        StoreError: the store does not return them.
    """
    domain = rows.domain
    if not domain.shards:
        return ()
    info, count = domain.shards[0], min(count, domain.shards[0].samples)
    part, layout = info.part, domain.container.rows(0)
    assert part is not None
    if part.begin is None:  # it is computed, as a whole
        return _computed_samples(rows, count)
    store = domain.files.store or open_store(domain.files.describe())
    file, samples = StoredFile(store, part.name, part.bytes, retry=retry), []
    for row in (at * info.samples // count for at in range(count)):
        begin, end = layout.span(np.empty(0, np.uint8), row)
        values = None
        if end - begin <= LONGEST:
            file.seek(part.begin + begin)
            values = domain.container.decode(0, file.read(end - begin), where=f"{part.name}, sample {row}")
        samples.append(Sample(info=info, row=row, size=end - begin, values=values, hidden=frozenset()))
    return samples


def _computed_samples(rows: DomainRows, count: int) -> Sequence[Sample]:
    domain = rows.domain
    info, data, samples = domain.shards[0], domain.map(0), []
    for row in (at * info.samples // count for at in range(count)):
        size = len(domain.record(0, row, data))
        values = domain.decode(0, row, data) if size <= LONGEST else None
        samples.append(Sample(info=info, row=row, size=size, values=values, hidden=frozenset()))
    return samples
