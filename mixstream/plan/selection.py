"""Kept rows: the view in which some rows of each shard are the samples.

Rules. A selection lists its kept rows shard by shard, ascending, in one file that is mapped; nothing here is as long as
that file. The rows of a shard are checked when the first of them is used: by their hash, and that they are ascending
rows of the shard. Nothing here knows a file: the caller supplies a function that maps the rows.

Shape suffixes: B rows of a batch, N kept rows of all shards, S shards of one domain.
"""

from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from mixstream.errors import SelectionError
from mixstream.records import dataclass
from mixstream.types import Int64

UInt32 = NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptRows:
    """The view (`plan.addressing.View`) in which sample k of a shard is the k-th row that a selection keeps of it.

    Of two shards of 5 rows, the selection keeps rows 1 and 4 of the first; the second is read whole. A third has
    nothing to read:

    >>> view = KeptRows(
    ...     id="5e1ec7", map_rows=lambda: np.array([1, 4], dtype=np.uint32), begin_S=np.array([0, -1, 2]),
    ...     samples_S=np.array([2, 5, 0]), stored_S=np.array([5, 5, 5]),
    ... )
    >>> view.rows(np.array([0, 1, 0]), np.array([1, 3, 0])).tolist(), view.kept, view.stored
    ([4, 3, 1], 7, 15)

    It is pickled without the rows: another process maps them again, and checks them again.

    Args:
        id: identifies which rows count. States hold it: another id means other rows.
        map_rows: returns the kept rows of all shards, uint32 [N], mapped; called once per process. It must be picklable
            for workers that are spawned.
        begin_S: int64 [S], where the rows of each shard begin; -1 for a shard of which all stored rows count.
        samples_S: int64 [S], rows of each shard that count.
        stored_S: int64 [S], rows that each shard has.
        hash_S: uint64 [S], xxh3_64 of the bytes of each shard's kept rows; None to check no hashes.
        header_S: the fingerprint that the header of each shard has to have, None where it is not known; the reader of
            the shards compares it. None to compare none.
        where: names the selection in errors.

    Raises:
        SelectionError: the arrays contradict each other.
    """

    id: str
    map_rows: Callable[[], UInt32]
    begin_S: Int64
    samples_S: Int64
    stored_S: Int64
    hash_S: NDArray[np.uint64] | None = None
    header_S: Sequence[str | None] | None = None
    where: str = "the selection"
    # Threads may map the rows, or check a shard, twice, with the same result. No `cached_property`: before Python 3.12
    # it locks, and a forked child may inherit it locked.
    _mapped: UInt32 | None = field(init=False, default=None, repr=False)
    _known_S: NDArray[np.bool_] = field(init=False, repr=False)  # the shards that need no further check

    def __post_init__(self) -> None:
        tables = (self.begin_S, self.samples_S, self.stored_S, self.hash_S, self.header_S)
        lengths = {len(table) for table in tables if table is not None}
        if len(lengths) > 1:
            raise SelectionError(f"{self.where}: its tables list {sorted(lengths)} shards: write the selection again")
        whole_S = self.begin_S < 0
        wrong_S = (self.samples_S < 0) | (self.samples_S > self.stored_S)
        wrong_S |= whole_S & (self.samples_S != self.stored_S)
        if wrong_S.any():
            shard = int(wrong_S.argmax())
            raise SelectionError(
                f"{self.where}: shard {shard} has {int(self.stored_S[shard])} rows, and the selection counts "
                f"{int(self.samples_S[shard])} of them: write the selection again"
            )
        object.__setattr__(self, "_known_S", whole_S)

    @property
    def kept(self) -> int:
        """Rows that count, over all shards."""
        return int(self.samples_S.sum())

    @property
    def stored(self) -> int:
        """Rows that there are, over all shards."""
        return int(self.stored_S.sum())

    def rows(self, shard_B: Int64, sample_B: Int64) -> Int64:
        """See `View.rows`.

        Raises:
            SelectionError: the rows of one of these shards are not those that the selection was written with.
        """
        if not self._known_S[shard_B].all():
            for shard in np.unique(shard_B).tolist():
                self._check(shard)
        at_B = self.begin_S[shard_B]
        whole_B = at_B < 0
        if not whole_B.any():
            return self._rows_N[at_B + sample_B].astype(np.int64)
        row_B = sample_B.astype(np.int64)
        listed_B = ~whole_B
        row_B[listed_B] = self._rows_N[at_B[listed_B] + sample_B[listed_B]]
        return row_B

    @property
    def _rows_N(self) -> UInt32:
        if self._mapped is not None:
            return self._mapped
        rows_N = self.map_rows()
        ends_S = np.where(self.begin_S < 0, 0, self.begin_S + self.samples_S)
        if rows_N.dtype != np.uint32 or rows_N.ndim != 1 or len(rows_N) < int(ends_S.max(initial=0)):
            raise SelectionError(
                f"{self.where}: its rows are {rows_N.dtype} {list(rows_N.shape)}, and its table of shards needs "
                f"{int(ends_S.max(initial=0))} numbers of 4 bytes: the file is damaged; write the selection again"
            )
        object.__setattr__(self, "_mapped", rows_N)
        return rows_N

    def _check(self, shard: int) -> None:
        if self._known_S[shard]:
            return
        begin, samples = int(self.begin_S[shard]), int(self.samples_S[shard])
        rows_N = self._rows_N[begin : begin + samples]
        if self.hash_S is not None and (found := xxhash.xxh3_64_intdigest(rows_N.tobytes())) != int(self.hash_S[shard]):
            raise SelectionError(
                f"{self.where}: the kept rows of shard {shard} have the hash {found:016x}, and the selection was "
                f"written with {int(self.hash_S[shard]):016x}: the file is damaged or was replaced while it is in use; "
                "run `mixstream select verify`, or write the selection again"
            )
        if samples and (int(rows_N[-1]) >= int(self.stored_S[shard]) or not (rows_N[1:] > rows_N[:-1]).all()):
            raise SelectionError(
                f"{self.where}: the kept rows of shard {shard} are not ascending rows below {int(self.stored_S[shard])}"
                ", which it has: write the selection again"
            )
        self._known_S[shard] = True

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_mapped": None, "_known_S": self.begin_S < 0}
