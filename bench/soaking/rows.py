"""What is noted of a batch: for each row its domain and a hash of all its columns, so that readers can be compared.

Integers are hashed as int64, since faces differ in what they widen; everything else bit by bit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import xxhash

JOINED = {"cu_seqlens", "max_seqlen"}
"""Columns of all rows together, which follow from `position_ids`; `problem_of` checks that."""

Row = tuple[int, str]
"""Domain (-1: the face does not say), hash."""


def array_of(value: Any) -> np.ndarray:
    """Return a column as an array, integers as int64."""
    array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    return array.astype(np.int64) if array.dtype.kind in "iub" else array


def rows_of(batch: Mapping[str, Any], columns: Collection[str] | None = None) -> tuple[list[Row], int]:
    """Return the rows of a batch, and how many bytes of them were looked at."""
    count = len(next(value for name, value in batch.items() if name not in JOINED))
    domain_B = batch["domain"].tolist() if "domain" in batch else [-1] * count
    names = sorted(set(batch) - JOINED - {"domain"}) if columns is None else sorted(columns)
    arrays = [np.ascontiguousarray(array_of(batch[name])).reshape(count, -1) for name in names]
    hashes = [xxhash.xxh3_64_hexdigest(b"".join(array[i].tobytes() for array in arrays)) for i in range(count)]
    return list(zip(map(int, domain_B), hashes, strict=True)), sum(array.nbytes for array in arrays)


def problem_of(batch: Mapping[str, Any]) -> str | None:
    """Return what is wrong in a batch by itself: ends of segments that are not where positions begin."""
    if "cu_seqlens" not in batch:
        return None
    begins = np.flatnonzero(array_of(batch["position_ids"]).ravel() == 0).tolist()
    ends = array_of(batch["cu_seqlens"]).tolist()
    if ends != [*begins, array_of(batch["position_ids"]).size]:
        return f"cu_seqlens {ends[:8]} and positions that begin at {begins[:8]}"
    return None
