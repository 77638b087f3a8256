"""What knows the borders of documents in each domain of a dataset, for `documents=True`.

The best that there is: a packing, borders that are stored beside the tokens, the sidecar that `mixstream convert`
wrote, and last the token that ends or begins a document. Domains of one dataset may differ in this. Nothing is guessed:
a domain of which nothing is known is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from mixstream.data.document_masks import DocumentMasks
from mixstream.data.domain import Domain
from mixstream.data.domains import Domains
from mixstream.data.listed_borders import BorderFile, ListedBorders, ShardRows
from mixstream.data.packed import CutEvenly, check_border_token
from mixstream.data.row_documents import BorderTokens, RowDocuments, WholeRows
from mixstream.data.span_documents import SpanDocuments
from mixstream.documents import ROW_KIND, BorderPositions, Documents
from mixstream.errors import ConfigError
from mixstream.formats import ComputesShards, TokenStore, fixed_row_tokens, kinds_of
from mixstream.storage import Store, open_store
from mixstream.types import Int64

_SHARDS = 1024
"""Computed shards whose borders are kept in memory: 8 bytes a document."""
_UNKNOWN = {
    True: "no borders are stored beside its tokens",
    False: "its index has no documents and names no end-of-document token",
}
"""Whether a domain is of token files -> what is not known of it."""


def document_masks(domains: Domains, *, labels: str | None) -> DocumentMasks:
    """Return what makes the columns of documents for batches of these domains.

    Args:
        domains: in the plan's order.
        labels: "unshifted" (if not given) or "shifted".

    Raises:
        ConfigError: nothing is known of the documents of a domain, or `labels` is none of the two.
        ShardCorruptError, StoreError: what is stored of them cannot be read.
    """
    known: dict[int, RowDocuments | BorderTokens] = {}
    for domain in domains:
        whole = domain.whole or domain  # buckets have the rows of one dataset
        if id(whole) not in known:
            known[id(whole)] = row_documents(whole)
    return DocumentMasks(
        known=[known[id(domain.whole or domain)] for domain in domains],
        offset_K=domains.shard_offset_K[: len(domains)],
        names=tuple(domain.name for domain in domains),
        labels="unshifted" if labels is None else labels,  # type: ignore[arg-type] - it is checked there
    )


def row_documents(domain: Domain) -> RowDocuments | BorderTokens:
    """Return what knows the borders in rows of one domain, which is no bucket.

    Raises:
        ConfigError: nothing does.
    """
    about = domain.container.extra.get("mixstream")
    about = about if isinstance(about, Mapping) else {}
    packed = domain.packed
    if packed is not None and packed.knows_documents:
        return SpanDocuments(shards=len(packed.shards), seq_len=packed.seq_len, rows_of=packed.rows_of)
    if (found := _stored_borders(domain)) is not None:
        return found
    if packed is None and about.get(ROW_KIND) == "documents":
        return WholeRows()
    even = packed is None or isinstance(packed.rows_of, CutEvenly)  # else rows are not where the sidecar counts
    if even and (found := _sidecar(domain, about)) is not None:
        return found
    if domain.eos_id is not None or domain.bos_id is not None:
        for name, token in (("eos_id", domain.eos_id), ("bos_id", domain.bos_id)):
            if token is not None:
                check_border_token(kinds_of(domain.shards), name, token, domain=domain.name)
        return BorderTokens(end=domain.eos_id, begin=domain.bos_id)
    if isinstance(ends := (domain.tokenizer or {}).get("eos"), int):
        return BorderTokens(end=ends)
    again = "; or convert it again with `mixstream convert`, which keeps borders"
    bare = isinstance(domain.container, TokenStore)
    raise ConfigError(
        f"documents=True: nothing says where documents begin in the rows of domain {domain.name!r} "
        f"({domain.files.describe()}): {_UNKNOWN[bare]}. Give its stream eos_id=, the token that ends each document"
        f"{', or bos_id=, the one that begins it' if bare else again}"
    )


def _stored_borders(domain: Domain) -> RowDocuments | None:
    """Return what a token store knows, beside its files or in its shards; None if it does not list all borders."""
    store = domain.container
    if not isinstance(store, TokenStore):
        return None
    if store.index.row is None:
        return WholeRows()
    if not store.lists_borders():
        return None
    rows = partial(_store_rows, domain)
    return (
        ListedBorders(shard_rows=rows, most=_SHARDS)
        if isinstance(store, ComputesShards)
        else ListedBorders(shard_rows=rows)
    )


def _store_rows(domain: Domain, shard: int) -> ShardRows:
    found, store = domain.cuts(shard), domain.stored
    assert found is not None, "all shards have borders"
    assert isinstance(store, TokenStore), "`_stored_borders` looked at it"
    assert store.index.row is not None, "`_stored_borders` looked at it"
    stride, tokens = store.index.row
    return ShardRows(file=found[0], token=found[1], stride=stride, tokens=tokens)


def _sidecar(domain: Domain, about: Mapping[str, Any]) -> RowDocuments | None:
    """Return what the sidecar of a domain knows; None if it has none."""
    files = domain.files
    store: Store = files.store if files.store is not None else open_store(files.describe())
    documents = Documents.of(store, about, retry=files.retry)
    if documents is None or documents.seq_len is None:
        return None
    shards = domain.shards if domain.packed is None else domain.packed.inner.shards
    stored, tokens = [shard.samples for shard in shards], fixed_row_tokens(shard.columns for shard in shards)
    if documents.rows != sum(stored) or tokens not in {None, documents.seq_len}:
        raise ConfigError(
            f"domain {domain.name!r}: its documents are those of {documents.rows} rows of {documents.seq_len} tokens, "
            f"and {files.describe()} has {sum(stored)} rows of {tokens}: another program has changed it since; "
            "convert it again, or give its stream eos_id="
        )
    positions = BorderPositions(documents=documents)
    _ = positions.data  # made now, before there are workers
    first_S = np.concatenate(([0], np.cumsum(stored)))
    read = documents.seq_len if domain.packed is None else domain.packed.seq_len  # packing="concat" cuts anew
    return ListedBorders(shard_rows=partial(_packed_rows, positions, first_S * documents.seq_len, read))


def _packed_rows(file: BorderFile, token_S: Int64, seq_len: int, shard: int) -> ShardRows:
    return ShardRows(file=file, token=int(token_S[shard]), stride=seq_len, tokens=seq_len)
