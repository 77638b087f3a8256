"""Where the rows of old shards are in new ones, by the keys of their contents.

Rules. A row is recognised by its key alone. Rows of equal content have equal keys: the k-th of them on the one side is
the k-th on the other, in the order of ordinals, and what one side has more often has no partner. Memory: 40 bytes for
each row of both sides together, while keys are matched.

Shape suffixes: N old rows, M new rows.
"""

from __future__ import annotations

import numpy as np

from mixstream.selection.keys import UInt64
from mixstream.selection.selection import Selection
from mixstream.selection.shard_table import ShardTable
from mixstream.types import Int64


def match_keys(old_N: UInt64, new_M: UInt64) -> Int64:
    """Return the new ordinal of each old row, int64 [N]; -1 where the new shards lack it.

    >>> old, new = np.array([7, 8, 7, 9], np.uint64), np.array([7, 9, 7, 7], np.uint64)
    >>> match_keys(old, new).tolist()
    [0, -1, 2, 1]

    Args:
        old_N: keys of the old rows, uint64 [N].
        new_M: keys of the new rows, uint64 [M].
    """
    by_old, by_new = np.argsort(old_N, kind="stable"), np.argsort(new_M, kind="stable")
    sorted_N, sorted_M = old_N[by_old], new_M[by_new]
    turn_N = np.arange(len(sorted_N)) - np.searchsorted(sorted_N, sorted_N, side="left")  # how many equal ones before
    at_N = np.searchsorted(sorted_M, sorted_N, side="left") + turn_N
    inside_N = at_N < len(sorted_M)
    inside_N[inside_N] = sorted_M[at_N[inside_N]] == sorted_N[inside_N]
    found_N = np.full(len(old_N), -1, dtype=np.int64)
    found_N[by_old[inside_N]] = by_new[at_N[inside_N]]
    return found_N


def match_shards(old: ShardTable, new: ShardTable, of_S: Int64) -> Int64:
    """Return the new ordinal of each old row, int64 [N], where whole shards were moved or renamed; -1 for other shards.

    Shards of 2 and 1 rows changed places:

    >>> from mixstream.selection import ShardIdentity
    >>> one, two = (ShardIdentity(name=name, samples=rows, raw_bytes=90) for name, rows in (("a", 2), ("b", 1)))
    >>> match_shards(ShardTable(shards=(one, two)), ShardTable(shards=(two, one)), np.array([1, 0])).tolist()
    [1, 2, 0]

    Args:
        old: the old shards.
        new: the new shards.
        of_S: number of the old shard that each new shard is; -1 for none (`ShardTable.match`).
    """
    found_N = np.full(old.rows, -1, dtype=np.int64)
    for number, listed in enumerate(of_S.tolist()):
        if listed >= 0:
            begin, end = old.start_S[listed : listed + 2].tolist()
            found_N[begin:end] = np.arange(end - begin) + new.start_S[number]
    return found_N


def moved_buckets(selection: Selection, new_of_N: Int64, rows: int) -> np.ndarray:
    """Return the bucket of each new row, int32 [rows]; -1 for rows that the selection does not keep.

    Args:
        selection: of the old rows.
        new_of_N: new ordinal of each old row, -1 for none.
        rows: how many new rows there are.
    """
    bucket_M = np.full(rows, -1, dtype=np.int32)
    for bucket in range(len(selection.buckets)):
        to = new_of_N[selection.ordinals(bucket)]
        bucket_M[to[to >= 0]] = bucket
    return bucket_M
