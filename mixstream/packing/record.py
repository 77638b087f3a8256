"""What a packing's files say, and what they must have in common (format `mixstream.packing/1`, see `packing`).

Rule: what is checked here costs O(shards), so it is checked whenever a packing is opened. The rows of a shard are
checked when it is first opened.

Shape suffixes: N spans, R rows, S shards.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from mixstream.packing.settings import PackingSettings
from mixstream.selection.manifest import FileRecord
from mixstream.selection.shard_table import ShardIdentity, ShardTable

U4, U8 = np.dtype("<u4"), np.dtype("<u8")
PACKING, PACKING_PART = "mixstream.packing/1", "mixstream.packing.part/1"
COUNTS, HASHES, BEGINS, SPANS = "counts.npy", "hashes.npy", "begins.npy", "spans.npy"
FILES = (COUNTS, HASHES, BEGINS, SPANS)


class Totals(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of the documents of some shards.

    Args:
        rows: packed rows.
        spans: spans of these.
        documents: documents with at least one token; what a shard has of one that it shares counts as one.
        tokens: tokens in rows.
        cut: documents that are in rows, but not whole in one row.
        dropped: tokens that are in no row.
        shared: documents that were cut before they were packed: by the border of a shard, or by the selection.
    """

    rows: int = 0
    spans: int = 0
    documents: int = 0
    tokens: int = 0
    cut: int = 0
    dropped: int = 0
    shared: int = 0

    def __add__(self, other: Totals) -> Totals:
        names = self.__struct_fields__
        return Totals(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def padding(self, seq_len: int) -> int:
        """Return the tokens of padding."""
        return self.rows * seq_len - self.tokens


class PackingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of a packing."""

    format: str
    domain: str
    shards: tuple[ShardIdentity, ...]
    settings: PackingSettings
    totals: Totals
    files: dict[str, FileRecord]
    made: dict[str, Any]
    id: str


msgspec.json.Decoder(PackingRecord)  # made here: threads that are the first to decode one type can crash


class PackingPartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of one part: of the shards `first_shard`, …, with the fingerprints of these."""

    format: str
    domain: str
    part: tuple[int, int]
    table: str
    first_shard: int
    fingerprints: tuple[str | None, ...]
    settings: PackingSettings
    totals: Totals
    files: dict[str, FileRecord]
    made: dict[str, Any]


def hash_rows(begin_R1: NDArray[np.uint32], span_N3: NDArray[np.uint32]) -> int:
    """Return xxh3_64 of the rows of a shard: the bytes of `begins.npy`, then those of `spans.npy`."""
    digest = xxhash.xxh3_64()
    for array in (begin_R1, span_N3):
        digest.update(np.ascontiguousarray(array, dtype=U4).reshape(-1).view(np.uint8).data)
    return digest.intdigest()


def packing_id(
    table: ShardTable, settings: PackingSettings, counts_S2: NDArray[np.uint32], hashes_S: NDArray[np.uint64]
) -> str:
    """Return the id of a packing: equal for equal rows of equal shards, packed in the same way."""
    digest = blake2b(msgspec.json.encode([table.digest, settings]), digest_size=16)
    digest.update(np.ascontiguousarray(counts_S2, dtype=U4).data)
    digest.update(np.ascontiguousarray(hashes_S, dtype=U8).data)
    return digest.hexdigest()
