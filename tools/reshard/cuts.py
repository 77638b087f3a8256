"""Where new shards begin: the rule of MDSWriter, applied to sizes alone, so that parts know their shards beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from mixstream.formats import ShardInfo, encode_shard

_OFFSET = 4  # bytes that a sample takes besides its own


def room_of(entry: ShardInfo) -> int:
    """Return the bytes that the samples of a shard and their offsets may take."""
    limit = entry.size_limit
    return (1 << 32) - 1 - head_of(entry) if limit is None else limit - head_of(entry)


def head_of(entry: ShardInfo) -> int:
    """Return the size of a shard without samples."""
    return len(encode_shard([], entry.config()))


def cut_fixed(rows: int, row_bytes: int, room: int) -> list[int]:
    """Return the borders of the shards of rows of one size: row numbers from 0 to `rows`.

    >>> cut_fixed(10, 16, 100)
    [0, 5, 10]
    """
    each = max(room // (row_bytes + _OFFSET), 1)
    return [*range(0, rows, each), rows] if rows else [0]


def cut(sizes: Iterable[NDArray[np.int64]], room: int) -> list[int]:
    """Return the borders of the shards of rows of these sizes, which come in blocks of any length.

    A shard is full when the next row does not fit; a row that fits in no shard has one of its own.

    >>> import numpy as np
    >>> cut([np.array([10, 10, 10]), np.array([500, 1])], 30)
    [0, 2, 3, 4, 5]
    """
    borders, row, used = [0], 0, 0
    for block in sizes:
        total = np.concatenate([[0], np.cumsum(block + _OFFSET)])
        at = 0
        while at < len(block):
            fits = int(np.searchsorted(total, total[at] + room - used, side="right")) - 1
            if fits <= at and used == 0:
                fits = at + 1  # larger than any shard
            if fits <= at:
                borders.append(row + at)
                used = 0
                continue
            used += int(total[fits] - total[at])
            at = fits
        row += len(block)
    return [*borders, row] if row > borders[-1] else borders


def deal(borders: Sequence[int], parts: int) -> list[tuple[int, int]]:
    """Return the shards of each part, first and end: consecutive ones, of almost equal number.

    >>> deal([0, 5, 10, 12], 2)
    [(0, 1), (1, 3)]
    """
    shards = len(borders) - 1
    return [(shards * part // parts, shards * (part + 1) // parts) for part in range(parts)]
