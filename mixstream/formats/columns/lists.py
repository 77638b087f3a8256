"""The lists of one column of a batch, as Arrow keeps them in memory, become tokens that follow each other.

Rules. A list counts whatever is in it: null and empty lists are documents without tokens, so that the k-th document is
the k-th list. What a null list covers is no token. A null inside of a list is no token id, and is refused. Positions
are untrusted: they are checked before a value is read.

Shape suffixes: N lists, V values.
"""

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ShardCorruptError
from mixstream.records import dataclass
from mixstream.types import Int64

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lists:
    """Lists of integers: list k is `values[offset_N[k] : offset_N[k + 1]]`, unless it is null.

    The first list is null and covers a value, the second is empty; no list covers the value before them:

    >>> lists = Lists(offset_N=np.array([1, 2, 2, 4]), valid_N=np.array([False, True, True]), values=4, nulls_V=None)
    >>> lists.length_N(where="batch 0").tolist(), lists.ranges(1, 2)
    ([0, 0, 2], [(3, 4)])

    Attributes:
        offset_N: int64 [N + 1], the positions of all lists in the values.
        valid_N: bool [N], whether a list is not null; None if none is.
        values: number of values, V.
        nulls_V: bool [V], which values are null; None if none is.
    """

    offset_N: Int64
    valid_N: Bools | None
    values: int
    nulls_V: Bools | None

    def __len__(self) -> int:
        return len(self.offset_N) - 1

    def length_N(self, *, where: str) -> Int64:
        """Return the tokens of each list, int64 [N]; `where` names file and batch in errors.

        Raises:
            ShardCorruptError: the positions are none, or a value in a list is null.
        """
        offset_N = self.offset_N
        step_N = np.diff(offset_N)
        if (step_N < 0).any() or offset_N[0] < 0 or offset_N[-1] > self.values:
            refuse(where, f"its lists lie at {offset_N[0]} to {offset_N[-1]} of {self.values} values, or overlap")
        length_N = step_N if self.valid_N is None else np.where(self.valid_N, step_N, 0)
        if self.nulls_V is not None:
            count = np.concatenate(([0], np.cumsum(self.nulls_V, dtype=np.int64)))
            null_N = (count[offset_N[1:]] - count[offset_N[:-1]]) * (length_N > 0)
            if null_N.any():
                at = int(np.argmax(null_N > 0))
                refuse(where, f"list {at} has {null_N[at]} nulls in it, which are no token ids; write it without them")
        return length_N

    def ranges(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Return where the tokens [begin, end) of all tokens lie, as few ranges [begin, end) of the values.

        It is one range, unless null lists cover values. There may be fewer tokens than `end`.
        """
        offset_N, step_N = self.offset_N, np.diff(self.offset_N)
        if self.valid_N is None or not (step_N[~self.valid_N] > 0).any():
            first, end = int(offset_N[0]), min(end, int(offset_N[-1] - offset_N[0]))
            return [(first + begin, first + end)] if end > begin else []
        edge = np.flatnonzero(np.diff(np.concatenate(([False], self.valid_N, [False])).astype(np.int8)))
        found, at = [], 0
        for first, last in zip(offset_N[edge[0::2]].tolist(), offset_N[edge[1::2]].tolist()):
            lo, hi = max(begin - at, 0), min(end - at, last - first)
            if lo < hi:
                found.append((first + lo, first + hi))
            at += last - first
        return found


def bits_of(data: NDArray[np.uint8], begin: int, count: int) -> Bools:
    """Return bits [begin, begin + count) of a bitmap, the least of each byte first, as bools."""
    bits = np.unpackbits(data[begin // 8 : -(-(begin + count) // 8)], bitorder="little")
    return bits[begin % 8 :][:count].astype(bool)


def one_length(length_N: Int64, known: int | None) -> int | None:
    """Return the length that all lists have; -1 if they differ, None if there are none.

    Args:
        length_N: int64 [N].
        known: of the lists before: as this returns.
    """
    if not len(length_N) or known == -1:
        return known
    first = int(length_N[0]) if known is None else known
    return first if bool((length_N == first).all()) else -1


def refuse(where: str, fact: str, cause: BaseException | None = None) -> NoReturn:
    """Raise ShardCorruptError."""
    raise ShardCorruptError(f"{where}: {fact}; copy the file again from its origin, or write it again") from cause


def as_little(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values, little-endian."""
    return values.astype(values.dtype.newbyteorder("<"), copy=False)
