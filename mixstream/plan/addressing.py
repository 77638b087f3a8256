"""(domain, draw) -> (shard, row): where the rows of a batch lie. Integers only; nothing here knows a file.

Two things stand between a draw and a stored row: the domain's `Order`, which says that draw n takes sample k of shard
s, and its `View`, which says which stored row the k-th sample of a shard is.

Shape suffixes: B rows, K domains, L lanes, S shards of one domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mixstream.plan.shuffle import Order
from mixstream.types import Addresses, Int64, Rows


class View(Protocol):
    """Which samples of a domain's shards count. `Order` deals these out; nothing else addresses a stored row.

    Whatever leaves out, repeats or cuts samples without rewriting shards (a selection, a packing) is a view.
    """

    @property
    def samples_S(self) -> Int64:
        """Samples of each shard that count, int64 [S]."""
        ...

    def rows(self, shard_B: Int64, sample_B: Int64) -> Int64:
        """Return the stored row of sample `sample_B` (0, 1, …, below `samples_S`) of shard `shard_B`, int64 [B].

        Shards are counted within the domain.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class WholeShards:
    """The view in which every stored row is a sample, in the order in which it is stored.

    >>> view = WholeShards(samples_S=np.array([3, 2]))
    >>> view.rows(np.array([1, 0]), np.array([1, 2]))
    array([1, 2])

    Args:
        samples_S: int64 [S], rows of each shard.
    """

    samples_S: Int64

    def rows(self, shard_B: Int64, sample_B: Int64) -> Int64:
        """See `View.rows`."""
        del shard_B
        return sample_B


@dataclass(frozen=True, kw_only=True)
class Addressing:
    """Draws to addresses, for all domains of a plan.

    Args:
        orders: one per domain, in the plan's order.
        views: likewise.
        shard_offset_K: int64 [K + 1], number of each domain's first shard when all are counted through.
        lanes: lanes of the plan.
    """

    orders: tuple[Order, ...]
    views: tuple[View, ...]
    shard_offset_K: Int64
    lanes: int

    def locate(self, batches: Sequence[Rows], part: slice) -> list[Addresses]:
        """Return the addresses of the rows `part` of each global batch.

        Batches are taken together, so that the cost per domain is shared by all of them.
        """
        domain_B = np.concatenate([rows.domain_B[part] for rows in batches]).astype(np.int64)
        draw_B = np.concatenate([rows.draw_B[part] for rows in batches])
        total = len(batches[0].domain_B)
        lane_B = np.tile((np.arange(total) // (total // self.lanes))[part], len(batches))
        group_B = domain_B * self.lanes + lane_B
        by_group = np.argsort(group_B, kind="stable")
        bounds = np.flatnonzero(np.diff(group_B[by_group], prepend=-1))
        shard_B, row_B = np.empty_like(draw_B), np.empty_like(draw_B)
        for here in np.split(by_group, bounds[1:]):
            domain, lane = divmod(int(group_B[here[0]]), self.lanes)
            shard_B[here], row_B[here] = self._find(domain, lane, draw_B[here])
        found = Addresses(domain_B=domain_B, shard_B=shard_B, row_B=row_B)
        size = len(found) // len(batches)
        return [found[i * size : (i + 1) * size] for i in range(len(batches))]

    def of_draws(self, *, domain: int, lane: int, draw_B: Int64) -> Addresses:
        """Return the addresses of draws of one domain in one lane."""
        shard_B, row_B = self._find(domain, lane, draw_B)
        return Addresses(domain_B=np.full(len(draw_B), domain, dtype=np.int64), shard_B=shard_B, row_B=row_B)

    def _find(self, domain: int, lane: int, draw_B: Int64) -> tuple[Int64, Int64]:
        """Return (shard, counted over all domains; row) of draws."""
        _, shard_B, sample_B = self.orders[domain].locate(lane=lane, draw_B=draw_B)
        return shard_B + self.shard_offset_K[domain], self.views[domain].rows(shard_B, sample_B)
