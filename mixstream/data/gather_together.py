"""Columns of several batches, copied by one call for each column: small batches cost little more than their bytes.

Only what needs no further look: all shards are mapped, all rows lie in one way, and how is known from earlier batches.
Nothing is fetched, mapped or decoded here; all else is gathered batch by batch (`Domains.gather`).

Shape suffixes: R rows of all batches, S shards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mixstream.data.collate import Column
from mixstream.data.gather import Field, gather_batches
from mixstream.data.open_shards import OpenShards
from mixstream.formats import ShardEntry
from mixstream.records import dataclass
from mixstream.types import Int64

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What is known where several batches are gathered together.

    Args:
        opened: the shards that are mapped.
        kinds: one shard of each kind of records, and the kind of every shard, int64 [S].
        fields: (kind, column) -> how to gather it, and the shape of a row of it.
    """

    opened: OpenShards
    kinds: tuple[Sequence[ShardEntry], Int64]
    fields: Mapping[tuple[int, str], tuple[Field, tuple[int, ...]]]

    def gather(
        self,
        shard_R: Int64,
        row_R: Int64,
        batches: int,
        columns: Mapping[str, Column],
        alloc: Callable[[np.dtype[Any], tuple[int, ...]], NDArray[Any]],
        two_threads: bool,
    ) -> dict[str, list[torch.Tensor]] | None:
        """Return column -> a tensor for each batch; None if they cannot be gathered together, or a row not be copied.

        Args:
            shard_R: int64 [R], the shards of the rows of all batches, one batch after the other.
            row_R: int64 [R], the stored rows.
            batches: how many these are, of as many rows each.
            columns: of the batches.
            alloc: allocates the memory of the tensors that are returned.
            two_threads: whether a second thread copies half of the rows.
        """
        from torch import from_numpy  # here: programs that read no batches need no torch

        if self.opened.unmap_after_read or not self.opened.all_open(shard_R):
            return None
        kind, rows = 0, len(shard_R) // batches
        if len(self.kinds[0]) > 1:
            kind = int(self.kinds[1][shard_R[0]])
            if (self.kinds[1][shard_R] != kind).any():
                return None
        found: dict[str, list[torch.Tensor]] = {}
        for name, column in columns.items():
            if (form := self.fields.get((kind, name))) is None:
                return None
            shape = rows, *form[1]
            outs = found[name] = [from_numpy(alloc(column.dtype, shape)) for _ in range(batches)]
            if gather_batches(self.opened.table, shard_R, row_R, form[0], outs, two_threads) >= 0:
                return None
        return found
