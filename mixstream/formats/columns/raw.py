"""A shard of lists in memory, as `Columns.make` computes it and the cache keeps it: tokens, then where documents end.

    tokens, little-endian · zeros to a multiple of 8 bytes · u64 n · u64 end[n], ascending, in tokens · zeros

Rules. The tokens begin at byte 0, as in a file of bare tokens. The size of a shard is known before it is computed:
there is room for as many ends as there can be. A shard is untrusted: `check_raw` reads all ends.
"""

import numpy as np
from numpy.typing import NDArray

from mixstream.formats.columns.lists import refuse
from mixstream.formats.cuts import Cuts
from mixstream.types import Int64, UInt8

_HEAD = 8  # bytes before the ends


def table_at(tokens: int, itemsize: int) -> int:
    """Return the byte of a shard at which the table of documents begins."""
    return -(-tokens * itemsize // 8) * 8


def raw_bytes(tokens: int, itemsize: int, ends: int) -> int:
    """Return the size of a shard with room for so many ends.

    >>> raw_bytes(5, 2, ends=2)  # 10 bytes of tokens, 6 of zeros, their number and two ends
    40
    """
    return table_at(tokens, itemsize) + _HEAD + 8 * ends


def write_table(raw: UInt8, tokens: int, itemsize: int, end_N: Int64) -> None:
    """Write where the documents of a shard end, into its bytes `raw`, which are zero there."""
    table = raw[table_at(tokens, itemsize) :].view("<u8")
    table[0] = len(end_N)
    table[1 : 1 + len(end_N)] = end_N


def cuts_of(raw: UInt8, tokens: int, itemsize: int) -> Cuts:
    """Return where the documents of a checked shard end: a copy, since the shard may be evicted meanwhile.

    >>> raw = np.zeros(raw_bytes(5, 2, ends=3), dtype=np.uint8)
    >>> write_table(raw, 5, 2, np.array([3, 5]))
    >>> cuts_of(raw, 5, 2).begins(0, 3).tolist()
    [0, 3, 5]
    """
    at = table_at(tokens, itemsize)
    count = int(raw[at : at + _HEAD].view("<u8")[0])
    ends = raw[at + _HEAD : at + _HEAD + 8 * count].copy()
    return Cuts(data=ends, at=0, count=count, unit=1, first=1, tokens=tokens)


def check_raw(raw: UInt8, tokens: int, itemsize: int, *, lists: int | None, where: str) -> None:
    """Check the table of documents of a shard.

    Args:
        raw: the shard.
        tokens: how many it has.
        itemsize: bytes of a token.
        lists: how many documents the shard has, if samples are documents; None if it does not have to be a number.
        where: names the file in errors.

    Raises:
        ShardCorruptError: the table is damaged.
    """
    at = table_at(tokens, itemsize)
    count = int(raw[at : at + 8].view("<u8")[0])
    room = (len(raw) - at - _HEAD) // 8
    if count > room or (lists is not None and count != lists):
        expected = f"at most {room}" if lists is None else str(lists)
        refuse(where, f"its table names {count} documents, and its index {expected}")
    end_N: NDArray[np.uint64] = raw[at + _HEAD : at + _HEAD + 8 * count].view("<u8")
    if count and ((end_N[1:] < end_N[:-1]).any() or end_N[-1] > tokens or (lists is not None and end_N[-1] != tokens)):
        refuse(where, f"its documents do not end in order, or not within its {tokens} tokens")
