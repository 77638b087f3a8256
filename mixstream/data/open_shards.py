"""Which shards are mapped now, and which of them are unmapped to make room for others.

Shape suffixes: B rows, S shards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mixstream.data.gather import ShardTable
from mixstream.types import Int64, UInt8


class OpenShards:
    """The shards that are mapped now, over all domains; those unused for longest are closed first.

    Used by one thread, but for `get`.

    Args:
        shards: how many there are.
        capacity: how many stay mapped; below the kernel's limit on mappings per process (65,530 by default).
        unmap_after_read: as `Domains`; also from a full disk on.
    """

    def __init__(self, shards: int, capacity: int = 4096, unmap_after_read: bool = False) -> None:
        self.table, self._capacity, self.unmap_after_read = ShardTable(shards), capacity, unmap_after_read
        self._used_S, self._turn = np.zeros(shards, dtype=np.int64), 0

    def get(self, number: int, opener: Callable[[int], UInt8]) -> UInt8:
        """Return the bytes of a shard, opened with `opener` if it is not mapped."""
        if (data := self.table.data.get(number)) is None:
            data = opener(number)
            self._turn += 1
            self.table.put(number, data)
            self._used_S[number] = self._turn
            self._make_room()
        self._used_S[number] = self._turn
        return data

    def need(self, number_B: Int64, opener: Callable[[int], UInt8]) -> None:
        """Map the shards `number_B`, all at once; they stay in the table until the next call at least."""
        self._turn += 1
        self._used_S[number_B] = self._turn
        missing_B = number_B[self.table.size_S[number_B] == 0]
        for number in np.unique(missing_B).tolist():
            self.table.put(number, opener(number))
        self._make_room()

    def drop(self, number: int) -> None:
        """Let go of one shard."""
        self.table.drop(number)

    def close(self) -> None:
        """Let go of all shards; each is unmapped once nothing refers to its bytes."""
        self.table = ShardTable(len(self._used_S))

    def _make_room(self) -> None:
        if (excess := len(self.table.data) - self._capacity) <= 0:
            return
        idle = sorted((int(self._used_S[number]), number) for number in list(self.table.data))
        for turn, number in idle[: excess + self._capacity // 8]:
            if turn < self._turn:
                self.table.drop(number)

    def __getstate__(self) -> dict[str, Any]:
        # mappings stay in their process
        return {"shards": len(self._used_S), "capacity": self._capacity, "unmap_after_read": self.unmap_after_read}

    def __setstate__(self, state: dict[str, Any]) -> None:
        OpenShards.__init__(self, **state)
