"""Borders of documents that a mapped file lists, found for the rows of a batch.

One loop searches the files of all rows, and releases the GIL. It reads memory addresses of integers that need not be
aligned, so that nothing is copied: border files have gigabytes. A `BorderFile` was checked when it was made.

Shape suffixes: B rows, N segments, S shards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mixstream.data.loop_memory import carray, pointer
from mixstream.data.row_documents import RowBorders
from mixstream.plan.compiled import compile_loop, compiled
from mixstream.records import dataclass
from mixstream.types import Int64, UInt8


class BorderFile(Protocol):
    """A mapped file that lists where documents begin or end in joined tokens (`formats.Cuts` is one).

    Attributes:
        data: its bytes, uint8.
        at: byte at which the first of the ascending integers of 8 bytes stands, aligned or not.
        count: how many there are.
        unit: an integer // `unit` is a position, counted in tokens.
    """

    @property
    def data(self) -> UInt8: ...  # noqa: D102 - above
    @property
    def at(self) -> int: ...  # noqa: D102
    @property
    def count(self) -> int: ...  # noqa: D102
    @property
    def unit(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRows:
    """Where the rows of a shard lie in the tokens of which a file lists the borders.

    Attributes:
        file: the file.
        token: where the first row begins.
        stride: tokens from the beginning of a row to that of the next.
        tokens: tokens of a row.
    """

    file: BorderFile
    token: int
    stride: int
    tokens: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ListedBorders:
    """Borders that are listed in files, of rows at equal distances.

    Rows of four tokens over documents of 3, 2, 0 and 5 tokens:

    >>> from types import SimpleNamespace
    >>> begins = np.array([0, 3, 5, 5], dtype="<i8").view(np.uint8)
    >>> file = SimpleNamespace(data=begins, at=0, count=4, unit=1)
    >>> rows = ShardRows(file=file, token=0, stride=4, tokens=4)
    >>> found = ListedBorders(shard_rows=lambda shard: rows).borders(np.zeros(2, np.int64), np.arange(2))
    >>> found.begin_B1.tolist(), found.token_N.tolist(), found.document_N.tolist()
    ([0, 2, 4], [0, 3, 0, 1], [0, 1, 1, 3])

    Args:
        shard_rows: number of a shard -> where its rows lie. Called once for each shard that is read.
        most: so many shards are kept, and those of a batch; with more, it is called again.
    """

    shard_rows: Callable[[int], ShardRows]
    most: int = 1 << 32
    _tables: dict[str, Any] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:  # without addresses of this process
        return _listed, (self.shard_rows, self.most)

    def borders(self, shard_B: Int64, row_B: Int64) -> RowBorders:
        """As of `RowDocuments`."""
        kept, fact_6S = self._known(shard_B)
        address_B, count_B, unit_B, token_B, stride_B, tokens_B = fact_6S.take(shard_B, axis=1)
        begin_B1 = np.zeros(len(row_B) + 1, dtype=np.int64)
        start_B = token_B + row_B * stride_B
        room = 4 * len(row_B) + 64
        while True:
            token_N, document_N = np.empty(room, dtype=np.int32), np.empty(room, dtype=np.int64)
            files = (address_B.view(np.uint64), count_B, unit_B)
            found = listed_borders(*files, start_B, tokens_B, begin_B1, token_N, document_N)
            if found <= room:
                break
            room = found
        del kept  # the addresses were those of its files
        return RowBorders(begin_B1=begin_B1, token_N=token_N[:found], document_N=document_N[:found])

    def _known(self, shard_B: Int64) -> tuple[dict[int, ShardRows], Int64]:
        """Return the shards that were read, with all of these, and what the loop reads of them: int64 [6, S].

        Threads may add to the same table: a shard keeps the first `ShardRows` that it got, so addresses stay valid, and
        what is lost where two threads make the table larger is added again.
        """
        kept, fact_6S = self._tables.get("shards") or _no_shards()
        room, needed = fact_6S.shape[1], int(shard_B.max(initial=-1)) + 1
        if needed <= room and fact_6S[-1, shard_B].all():
            return kept, fact_6S
        shards = np.unique(shard_B).tolist()
        new = [shard for shard in shards if shard >= room or not fact_6S[-1, shard]]
        if len(kept) + len(new) > self.most:
            (kept, fact_6S), new = _no_shards(), shards
        if needed > fact_6S.shape[1]:
            larger_6S = np.zeros((6, max(needed, 2 * room)), dtype=np.int64)
            larger_6S[:, : fact_6S.shape[1]] = fact_6S
            fact_6S = larger_6S
        for shard in new:
            rows = kept.setdefault(shard, self.shard_rows(shard))
            address = rows.file.data.ctypes.data + rows.file.at
            fact_6S[:, shard] = address, rows.file.count, rows.file.unit, rows.token, rows.stride, rows.tokens
        self._tables["shards"] = kept, fact_6S
        return kept, fact_6S


def _no_shards() -> tuple[dict[int, ShardRows], Int64]:
    return {}, np.zeros((6, 0), dtype=np.int64)


def _listed(shard_rows: Callable[[int], ShardRows], most: int) -> ListedBorders:
    return ListedBorders(shard_rows=shard_rows, most=most)


def listed_borders_reference(
    address_B: NDArray[np.uint64],
    count_B: Int64,
    unit_B: Int64,
    start_B: Int64,
    tokens_B: Int64,
    begin_B1: Int64,
    token_N: NDArray[np.int32],
    document_N: Int64,
) -> int:
    """Write the borders in rows of `tokens_B` tokens from `start_B` on; return how many there are.

    A row's borders are its first token, and each listed position within it. If there is no room for all, nothing of
    `token_N` and `document_N` is to be used.

    Args:
        address_B: memory address of the integers that are listed for each row.
        count_B: how many there are.
        unit_B: as of `BorderFile`.
        start_B: where each row begins.
        tokens_B: tokens of each row.
        begin_B1: receives the first border of each row.
        token_N: receives the borders' tokens.
        document_N: receives the place in the list of the position at or before each border; -1 becomes 0.
    """
    found: list[tuple[int, int]] = []
    begin_B1[0] = 0
    for i, (start, tokens) in enumerate(zip(start_B.tolist(), tokens_B.tolist())):
        raw = np.ctypeslib.as_array((_Bytes * (8 * int(count_B[i]))).from_address(int(address_B[i])))
        listed = np.frombuffer(raw.tobytes(), dtype="<i8") // unit_B[i]
        at = int(np.searchsorted(listed, start, side="right")) - 1
        row = {0: max(at, 0)}
        row |= {int(cut) - start: at + 1 + j for j, cut in enumerate(listed[at + 1 :]) if cut < start + tokens}
        found += row.items()
        begin_B1[i + 1] = len(found)
    if found and len(found) <= len(token_N):
        token_N[: len(found)], document_N[: len(found)] = zip(*found)
    return len(found)


_Bytes: Any = np.ctypeslib.as_ctypes_type(np.uint8)


@compile_loop
def _position(address: Any, number: Any, unit: Any) -> Any:  # pragma: no cover - compiled
    """Return one listed position; its eight bytes need not be aligned."""
    raw = carray(pointer(address + np.uint64(8) * np.uint64(number)), (8,), np.uint8)
    value = np.int64(0)
    for byte in range(8):
        value |= np.int64(raw[byte]) << np.int64(8 * byte)
    return value // unit


@compiled(listed_borders_reference)
def listed_borders(
    address_B: Any,
    count_B: Any,
    unit_B: Any,
    start_B: Any,
    tokens_B: Any,
    begin_B1: Any,
    token_N: Any,
    document_N: Any,
) -> int:  # pragma: no cover - compiled
    """Compiled `listed_borders_reference`."""
    n = 0
    begin_B1[0] = 0
    for i in range(len(start_B)):
        address, count, unit, start = address_B[i], count_B[i], unit_B[i], start_B[i]
        low, high = np.int64(0), count  # the first position behind `start`
        while low < high:
            middle = (low + high) >> 1
            if _position(address, middle, unit) <= start:
                low = middle + 1
            else:
                high = middle
        if n < len(token_N):
            token_N[n], document_N[n] = 0, max(low - 1, 0)
        last, end = start, start + tokens_B[i]
        n += 1
        while low < count:
            cut = _position(address, low, unit)
            if cut >= end:
                break
            if cut > last:  # documents without tokens begin where the next one does
                n += 1
                last = cut
            if n <= len(token_N):
                token_N[n - 1], document_N[n - 1] = cut - start, low
            low += 1
        begin_B1[i + 1] = n
    return n
