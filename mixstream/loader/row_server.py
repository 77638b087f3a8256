"""How the rows of a step leave a dataset: read together where that is possible, and handed out one by one.

Whoever iterates the dataset gets one sample at a time. Rows of fixed shapes are gathered in blocks all the same. If a
DataLoader collates them by torch's function or ours, a block is what it takes for one batch (`data.row_blocks`). For
anyone else, rows are dicts with values of their own. Rows that cannot be gathered are read one by one, so that an error
comes at the row that causes it, and `on_bad_sample` replaces that row alone.

Shape suffixes: B rows of this rank in one step, N of these that are read together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from mixstream.data.bad_samples import RowReader
from mixstream.data.collate import collate_samples, row_columns
from mixstream.data.row_blocks import LocalMemory, RowBlock, SharedMemory, is_stock_collate, plain_rows, register
from mixstream.errors import MixstreamError
from mixstream.loader.callers import Fetching
from mixstream.loader.device import BufferPool
from mixstream.loader.handed_batches import BatchSender, Slot
from mixstream.metering import GATHER, here
from mixstream.storage import ProcessLocal
from mixstream.types import Addresses, Int64, Rows

Portion = tuple[list[int], Iterator[Any]]
"""(which of this rank's rows of a step, ascending; their samples: an iterator that knows how many are left)."""

_FIRST_ROWS, _MOST_ROWS, _BYTES = 4, 64, 1 << 21  # of a block whose rows are handed out as dicts


_sender = ProcessLocal(BatchSender)  # of this process, if it is a DataLoader worker: it lives as long as that does


class RowServer:
    """Reads rows of a step, and hands them out in portions.

    Args:
        reader: reads rows, and handles those that cannot be read.
        make: returns the sample at one address.
        together: whether the samples are the stored rows, so that they may be gathered.
        fetching: how a DataLoader takes the samples, if one does.
    """

    def __init__(
        self,
        *,
        reader: RowReader,
        make: Callable[[Addresses], Any],
        together: bool,
        fetching: Fetching | None,
    ) -> None:
        self._reader, self._make = reader, make
        self._collate = fetching.collate if fetching is not None else None
        self._widen = widens(self._collate)
        self._columns = row_columns(reader.domains.records, widen=bool(self._widen)) if together else None
        self._plain = {name for name, encoding in reader.domains.records[0].items() if encoding == "int"}
        self._batch_size = fetching.batch_size if fetching is not None else 0
        self._sender = _sender.value if get_worker_info() is not None else None
        self._pool = BufferPool()
        self._rows, self._misses, self._waits = _FIRST_ROWS, 0, 0
        if self._widen is not None:
            register()

    def portions(self, rows: Rows, at: Addresses, mine_N: Int64, turn_N: Int64) -> Iterator[Portion]:
        """Yield the samples of some rows, in order, read as they are asked for.

        Args:
            rows: the global batch.
            at: the addresses of this rank's rows, B.
            mine_N: int64 [N], which of them, ascending.
            turn_N: int64 [N], for each of them, the number of the batch for which a DataLoader takes it.
        """
        blocks = self._columns is not None and self._hands_out_blocks()
        begin, cuts = 0, [0, *(np.flatnonzero(np.diff(turn_N)) + 1).tolist(), len(mine_N)]
        while begin < len(mine_N):
            end = cuts[bisect_right(cuts, begin)]
            whole = blocks and end - begin == self._batch_size  # the rows of a batch are all of one block, or none is
            end = end if whole else min(begin + self._rows, end)
            here_N = mine_N[begin:end]
            apart = not whole and knows_rows(self._collate)  # which asks rows for their addresses; a dict has none
            block = None if apart else self._together(rows, at, here_N, whole=whole)
            if block is not None:
                yield here_N.tolist(), block
            else:
                for i in here_N.tolist():
                    yield [i], iter((self._reader.read(rows, slice(i, i + 1), at[i : i + 1], self._make),))
            begin = end

    def _hands_out_blocks(self) -> bool:
        return self._widen is not None and widens(self._collate) is self._widen

    def _together(self, rows: Rows, at: Addresses, here_N: Int64, *, whole: bool) -> Iterator[Any] | None:
        """Return the samples of the rows `here_N`; None if they have to be read one by one."""
        if self._columns is None:
            return None
        if self._waits:
            self._waits -= 1
            return None
        settled = self._reader.settled(rows, slice(None), at)
        there = Addresses(
            domain_B=settled.domain_B[here_N], shard_B=settled.shard_B[here_N], row_B=settled.row_B[here_N]
        )
        memory = self._memory(len(here_N)) if whole else LocalMemory(self._pool)
        found = None
        try:
            here().clock.enter(GATHER)
            found = self._reader.domains.gather(there, self._columns, memory.empty)
        except MixstreamError as error:
            if error.bad is None:
                raise
        finally:
            if found is None:  # row by row, the bad one is found
                memory.release()
        if found is None:
            self._misses = min(self._misses + 1, 10)
            self._waits = (1 << self._misses) - 1  # rows of many shapes would be read twice each time
            return None
        self._misses = 0
        if whole:
            if self._sender is not None:
                self._sender.note(found)
            return iter(RowBlock(memory.batch(found), there).rows())
        size = sum(array.nbytes for array in found.values()) // len(here_N)
        self._rows = min(max(_BYTES // max(size, 1), 1), 2 * self._rows, _MOST_ROWS)
        return iter(list(plain_rows(found, self._plain)))

    def _memory(self, rows: int) -> LocalMemory | SharedMemory | Slot:
        """Return what allocates a block of so many rows."""
        if self._sender is None or rows < self._batch_size:  # a part of a batch is copied once more
            return LocalMemory(self._pool)
        if knows_rows(self._collate):  # which adds columns
            return SharedMemory()
        return self._sender.slot() or SharedMemory()


def widens(collate: Any) -> bool | None:
    """Return whether a collate function widens tokens; None if it is not one that is known to take rows in blocks."""
    if knows_rows(collate):
        return collate.widens
    if isinstance(collate, partial) and not collate.args and set(collate.keywords) <= {"widen"}:
        return collate.keywords.get("widen", True) if collate.func is collate_samples else None
    if collate is collate_samples:
        return True
    return False if collate is not None and is_stock_collate(collate) else None


def knows_rows(collate: Any) -> bool:
    """Return whether a collate function asks the rows of a block for their addresses."""
    return getattr(collate, "asks_for_addresses", False) is True
