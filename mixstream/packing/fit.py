"""Items into rows, longest first: the row of each item. Two loops, each beside the brute force that it must equal.

Best-fit takes O(I log L) time: rows stand in a queue for each number of free tokens, and a segment tree over these
numbers finds the least that is enough (arXiv 2404.10830, section 3). First-fit takes O(I log R): a segment tree over
rows has the most room of each range.

Shape suffixes: I items, R rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mixstream.plan.compiled import compiled
from mixstream.types import Int64

_FEW = 128  # items for which brute force takes about a millisecond


def best_fit_reference(tokens_I: Int64, seq_len: int) -> Int64:
    """Return the row of each item, int64 [I]: the one with the least room that is enough, else a new one.

    Of rows with equal room it is the one that has had this room longest.

    >>> best_fit_reference(np.array([5, 4, 3, 3]), seq_len=8).tolist()
    [0, 1, 0, 1]

    Args:
        tokens_I: int64 [I], descending, each 1 to `seq_len`.
        seq_len: tokens of a row.
    """
    rows: list[tuple[int, int, int]] = []  # room, turn since which it is so, row
    placed = []
    for turn, tokens in enumerate(tokens_I.tolist()):
        fitting = [each for each in rows if each[0] >= tokens]
        room, _, row = min(fitting) if fitting else (seq_len, turn, len(rows))
        rows = [each for each in rows if each[2] != row] + [(room - tokens, turn, row)]
        placed.append(row)
    return np.array(placed, dtype=np.int64)


def first_fit_reference(tokens_I: Int64, seq_len: int) -> Int64:
    """Return the row of each item, int64 [I]: the first one with room that is enough, else a new one.

    >>> first_fit_reference(np.array([5, 4, 3, 3]), seq_len=8).tolist()
    [0, 1, 0, 1]

    Args:
        tokens_I: int64 [I], descending, each 1 to `seq_len`.
        seq_len: tokens of a row.
    """
    rooms: list[int] = []
    placed = []
    for tokens in tokens_I.tolist():
        row = next((row for row, room in enumerate(rooms) if room >= tokens), len(rooms))
        if row == len(rooms):
            rooms.append(seq_len)
        rooms[row] -= tokens
        placed.append(row)
    return np.array(placed, dtype=np.int64)


@compiled(best_fit_reference, small=lambda tokens_I, seq_len: len(tokens_I) <= _FEW)
def best_fit(tokens_I: Any, seq_len: int) -> Any:
    """Compiled `best_fit_reference`."""
    size = 1
    while size <= seq_len:
        size *= 2
    tree = np.zeros(2 * size, dtype=np.bool_)  # whether a row has this room, over the leaves below
    first, last = np.full(seq_len + 1, -1, dtype=np.int64), np.full(seq_len + 1, -1, dtype=np.int64)  # a queue each
    after_R = np.full(len(tokens_I), -1, dtype=np.int64)
    row_I = np.empty(len(tokens_I), dtype=np.int64)
    rows = 0
    for i in range(len(tokens_I)):
        need = tokens_I[i]
        at = size + need
        if not tree[at]:
            while at > 1 and (at % 2 == 1 or not tree[at + 1]):
                at //= 2
            if at > 1:
                at += 1
                while at < size:
                    at = 2 * at if tree[2 * at] else 2 * at + 1
        room = seq_len
        if at > 1:
            room = at - size
            row = first[room]
            first[room] = after_R[row]
            if first[room] < 0:
                last[room] = -1
                tree[at] = False
                while at > 1 and not tree[at ^ 1]:
                    at //= 2
                    tree[at] = False
        else:
            row = rows
            rows += 1
        row_I[i] = row
        room -= need
        if room > 0:
            after_R[row] = -1
            if last[room] < 0:
                first[room] = row
                at = size + room
                while at > 0 and not tree[at]:
                    tree[at] = True
                    at //= 2
            else:
                after_R[last[room]] = row
            last[room] = row
    return row_I


@compiled(first_fit_reference, small=lambda tokens_I, seq_len: len(tokens_I) <= _FEW)
def first_fit(tokens_I: Any, seq_len: int) -> Any:
    """Compiled `first_fit_reference`."""
    size = 1
    while size < len(tokens_I):
        size *= 2
    tree = np.full(2 * size, seq_len, dtype=np.int64)  # most room of the rows below, which are numbered from 0
    row_I = np.empty(len(tokens_I), dtype=np.int64)
    for i in range(len(tokens_I)):
        at = 1
        while at < size:
            at = 2 * at if tree[2 * at] >= tokens_I[i] else 2 * at + 1
        row_I[i] = at - size
        tree[at] -= tokens_I[i]
        while at > 1:
            at //= 2
            tree[at] = max(tree[2 * at], tree[2 * at + 1])
    return row_I
