"""Checks whether the documents that convert kept agree with the index and the shards.

The files first: there, of their size and hash. Then their lines: documents are numbered from 0, their segments fill the
rows from the first token to the last, and the counts are those of the index. While a shard's samples are decoded, its
documents must end where the tokens say so. Memory is bounded by a file as stored, and the borders of a shard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixstream.documents import Documents, DocumentsFile
from mixstream.errors import ConfigError, IndexCorruptError, MixstreamError, ShardCorruptError
from mixstream.formats import hash_hex
from mixstream.storage import INDEX, Retry

from ..shared.datasets import Dataset
from ..shared.shards import read_bytes
from .shard import REPLACE, TODO, Depth, Fault, Look

TOKENS = "tokens"
_WRAP = 1 << 64


def open_documents(dataset: Dataset, retry: Retry) -> tuple[Documents | None, Fault | None]:
    """Return the documents of a dataset, if it keeps any; or the fault of its index."""
    try:
        return Documents.of(dataset.store, dataset.about, retry=retry), None
    except (IndexCorruptError, ConfigError) as error:
        return None, Fault.of("index", INDEX, error)


def check_documents(dataset: Dataset, documents: Documents, depth: Depth) -> Fault | None:
    """Return the first fault of a dataset's documents; None if there is none."""
    for file in documents.files:
        if (fault := _file(documents, file, depth)) is not None:
            return fault
    if depth.sizes_only:
        return None
    try:
        what = _lines(dataset, documents)
    except (ShardCorruptError, ConfigError) as error:
        return Fault.of("documents", documents.files[0].basename if documents.files else INDEX, error)
    except (MixstreamError, OSError) as error:
        return Fault.of_store(documents.files[0].basename, error)
    if what is None:
        return None
    name = documents.files[0].basename if documents.files else INDEX
    return Fault(kind="documents", file=name, what=what, todo=TODO["documents"])


def ends_of(documents: Documents, first: int, rows: int, eos: int) -> Look:
    """Return what checks that documents end in the samples of a shard where their lines say so.

    Args:
        documents: of the dataset.
        first: the shard's first row in the dataset.
        rows: how many it has.
        eos: the token that ends a document.
    """
    found = documents.borders(first, first + rows)
    begins = (found.begin_N == 0) & (found.token_N > 0)
    row_M, token_M = found.row_N[begins] - first, found.token_N[begins]
    start_N = np.searchsorted(row_M, np.arange(rows + 1))

    def check(row: int, sample: Mapping[str, Any]) -> None:
        tokens = sample[TOKENS]
        before_M = token_M[start_N[row] : start_N[row + 1]] - 1
        whole = documents.row_kind == "documents"
        if (len(before_M) and not (tokens[before_M] == eos).all()) or (whole and tokens[-1:].tolist() != [eos]):
            raise ShardCorruptError(
                f"sample {row}: a document ends where the token is not {eos}, which ends one; its documents are of "
                "other shards"
            )

    return check


def _file(documents: Documents, file: DocumentsFile, depth: Depth) -> Fault | None:
    store, name, retry = documents.store, file.basename, documents.retry
    try:
        if depth.sizes_only:
            size = retry.call(f"asking for {store.url}/{name}", lambda: store.info(name), renew=store.renew).size
            digest = file.hash
        else:
            data = read_bytes(store, name, None, retry)
            size, digest = len(data), hash_hex("xxh3_64", data)
    except (MixstreamError, OSError) as error:
        return Fault.of_store(name, error)
    if size != file.bytes:
        what = f"it has {size:,} bytes, the index says {file.bytes:,}"
        return Fault(kind="size", file=name, what=what, todo=TODO["size"])
    if digest != file.hash:
        return Fault(kind="hash", file=name, what=f"xxh3_64 is {digest}, the index says {file.hash}", todo=REPLACE)
    return None


@dataclass(kw_only=True)
class _Sum:
    """What was seen of the lines so far."""

    seq_len: int | None
    place: int = 0
    """Where the next segment has to begin: a token of the joined rows, or a row if that is a document."""
    tokens: int = 0
    dropped: int = 0
    first: int = 0
    lengths: int = 0
    numbers: int = 0
    """The numbers of documents and their squares, summed: enough to see that each number comes once."""

    def add(self, block: Any) -> str | None:
        """Add a block of lines; returns what is wrong."""
        columns = {name: block[name] for name in ("row", "token", "tokens", "begin", "length", "document")}
        stored = columns["row"].is_valid().to_numpy(zero_copy_only=False)
        row, token = (columns[name].fill_null(0).to_numpy().astype(np.int64) for name in ("row", "token"))
        tokens, begin, length, document = (columns[n].to_numpy() for n in ("tokens", "begin", "length", "document"))
        if (
            ((tokens < 1) & (length > 0)).any()
            or (tokens < 0).any()
            or (begin + tokens > length).any()
            or (begin < 0).any()
        ):
            return "a segment is empty, or longer than its document"
        if self.dropped and stored.any():
            return "tokens that were dropped come before others"
        place = (row if self.seq_len is None else row * self.seq_len + token)[stored]
        sizes = np.ones(len(place), np.int64) if self.seq_len is None else tokens[stored]
        expected = self.place + np.cumsum(sizes) - sizes
        if not np.array_equal(place, expected) or (self.seq_len is None and (token.any() or (tokens != length).any())):
            at = int(np.flatnonzero(place != expected)[0]) if (place != expected).any() else 0
            return f"the document {int(document[stored][at])} does not begin where the one before it ends"
        self.place += int(sizes.sum())
        self.tokens += int(tokens[stored].sum())
        self.dropped += int(tokens[~stored].sum())
        whole = begin == 0
        self.first += int(whole.sum())
        self.lengths += int(length[whole].sum())
        for number in (document[whole].astype(np.uint64), document[whole].astype(np.uint64) ** 2):
            self.numbers = (self.numbers + int(number.sum(dtype=np.uint64))) % _WRAP
        return None


def _lines(dataset: Dataset, documents: Documents) -> str | None:
    """What is wrong with the lines; None if nothing is."""
    total = _Sum(seq_len=documents.seq_len)
    for block in documents.blocks(["document", "row", "token", "tokens", "begin", "length"]):
        if (what := total.add(block)) is not None:
            return what
    about, rows = dataset.about, sum(info.samples for info in dataset.shards)
    count = total.first
    numbers = (count * (count - 1) // 2 + count * (count - 1) * (2 * count - 1) // 6) % _WRAP
    counted = {
        "documents": (count, about.get("documents")),
        "numbers of documents": (total.numbers, numbers),
        "rows": (documents.rows, rows),
        "tokens": (total.tokens, about.get("tokens")),
        "places": (total.place, rows * (documents.seq_len or 1)),
        "dropped tokens": (total.dropped, about.get("dropped_tokens")),
        "tokens of whole documents": (total.tokens + total.dropped, total.lengths),
    }
    for name, (found, expected) in counted.items():
        if found != expected:
            return f"its {name} come to {found:,}, by the index and the shards it is {expected}"
    return None
