"""What a selection's files say, and what they must have in common (format `mixstream.selection/1`, see `selection`).

Rule: what is checked here costs O(shards * buckets), so it is checked whenever a selection is opened.

Shape suffixes: S shards, K buckets of the selection.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from mixstream.records import dataclass
from mixstream.selection.manifest import FileRecord
from mixstream.selection.npy import refuse
from mixstream.selection.shard_table import ShardIdentity, ShardTable

U4, U8 = np.dtype("<u4"), np.dtype("<u8")
COUNTS, HASHES, ROWS = "counts.npy", "hashes.npy", "rows.npy"


class SelectionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of a selection."""

    format: str
    domain: str
    shards: tuple[ShardIdentity, ...]
    buckets: tuple[str, ...]
    rows: dict[str, int]
    tokens: dict[str, int] | None
    files: dict[str, FileRecord]
    rule: dict[str, Any]
    parents: dict[str, str]
    made: dict[str, Any]
    id: str


msgspec.json.Decoder(SelectionRecord)  # made here: threads that are the first to decode one type can crash


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of the rows of a domain, before a selection and after it."""

    before: int
    after: int


def hash_rows(rows: NDArray[np.uint32]) -> int:
    """Return xxh3_64 of the bytes of rows, u4 little-endian.

    >>> hash_rows(np.array([0, 2])) == xxhash.xxh3_64_intdigest(bytes([0, 0, 0, 0, 2, 0, 0, 0]))
    True
    """
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(rows, dtype=U4).view(np.uint8).data)


def selection_id(
    table: ShardTable, buckets: Sequence[str], counts_SK: NDArray[np.uint32], hashes_SK: NDArray[np.uint64]
) -> str:
    """Return the id of a selection: equal for equal rows in equal buckets of equal shards."""
    digest = blake2b(msgspec.json.encode([table.digest, list(buckets)]), digest_size=16)
    digest.update(np.ascontiguousarray(counts_SK, dtype=U4).data)
    digest.update(np.ascontiguousarray(hashes_SK, dtype=U8).data)
    return digest.hexdigest()


def check_counts(table: ShardTable, counts_SK: NDArray[np.uint32], record: SelectionRecord, where: str) -> None:
    """Refuse counts that the shards, or the rows in the manifest, contradict."""
    kept_S = counts_SK.sum(axis=1, dtype=np.int64)
    samples_S = np.diff(table.start_S)
    if (kept_S > samples_S).any():
        shard = int(np.argmax(kept_S > samples_S))
        refuse(where, f"{kept_S[shard]} rows of shard {table.shards[shard]} are kept, more than it has")
    found = {"before": table.rows, "after": int(kept_S.sum())}
    if record.rows != found:
        refuse(where, f"its rows are {record.rows}, its shards and counts say {found}")


def checked_id(
    table: ShardTable,
    counts_SK: NDArray[np.uint32],
    hashes_SK: NDArray[np.uint64],
    record: SelectionRecord,
    where: str,
) -> str:
    """Return the id; refuse one that the content contradicts."""
    found = selection_id(table, record.buckets, counts_SK, hashes_SK)
    if record.id != found:
        refuse(where, f"its id is {record.id[:40]!r}, its content has {found}")
    return found


def read_tokens(record: SelectionRecord, where: str) -> Tokens | None:
    """Return the tokens; refuse numbers that cannot be."""
    if record.tokens is None:
        return None
    try:
        tokens = Tokens(**record.tokens)
    except TypeError:
        refuse(where, f"its tokens are {record.tokens!r:.80}; 'before' and 'after' are needed")
    if not 0 <= tokens.after <= tokens.before:
        refuse(where, f"it keeps {tokens.after} of {tokens.before} tokens")
    return tokens
