"""(domain, draw) -> (shard, row): where the rows of a batch lie. Integers only; nothing here knows a file.

A draw becomes a stored row in two steps: the domain's `Order` maps draw n to sample k of shard s, and the domain's
`View` maps sample k of this shard to a stored row. Domains that read the same shards through different views share one
*source*; a shard is numbered once per source, so what is known of it (mapped, fetched, needed next) is known once.

Shape suffixes: B rows, F sources, K domains, L lanes, S shards of one domain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import field
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from mixstream.cached import cached_property
from mixstream.lazy import later
from mixstream.plan.compiled import NotCompiledError
from mixstream.plan.distinct import distinct
from mixstream.plan.shuffle import Order
from mixstream.records import dataclass
from mixstream.types import Addresses, Int64, Rows, record_maker

if TYPE_CHECKING:
    from mixstream.plan.layouts import LayoutTable
else:
    (LayoutTable,) = later("mixstream.plan.layouts", "LayoutTable")

_make_addresses = record_maker(Addresses)


class View(Protocol):
    """Which samples of a domain's shards count. Only a view addresses stored rows.

    A view can leave out, repeat or cut samples without rewriting shards; selections and packings are views. What a
    stored row is (a record, or the spans of several documents) is for the container to say.
    """

    @property
    def samples_S(self) -> Int64:
        """Samples of each shard that count, int64 [S]."""
        ...

    def rows(self, shard_B: Int64, sample_B: Int64) -> Int64:
        """Return the stored rows of the samples `sample_B` of the shards `shard_B`, int64 [B].

        Samples are counted from 0 within their shard, shards from 0 within the domain.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class WholeShards:
    """The view in which every stored row is a sample, in stored order.

    >>> view = WholeShards(samples_S=np.array([3, 2]))
    >>> view.rows(np.array([1, 0]), np.array([1, 2])).tolist()
    [1, 2]

    Args:
        samples_S: int64 [S], rows of each shard.
        id: identifies rows that a packing makes of the shards; states hold it. None for stored rows.
    """

    samples_S: Int64
    id: str | None = None

    def rows(self, shard_B: Int64, sample_B: Int64) -> Int64:
        """See `View.rows`."""
        del shard_B
        return sample_B


def shard_offsets(shards_K: Sequence[int], source_K: Sequence[int] | None = None) -> Int64:
    """Return the number of each domain's first shard, int64 [K + 1]; the last entry is how many shards there are.

    Domains 0 and 2 read the same 3 shards, domain 1 has 2 of its own:

    >>> shard_offsets([3, 2, 3], [0, 1, 0]).tolist()
    [0, 3, 0, 5]

    Args:
        shards_K: shards of each domain.
        source_K: the source of each domain, numbered from 0 as they first appear; each its own if not given.
    """
    sources = range(len(shards_K)) if source_K is None else source_K
    shards_F = dict(zip(sources, shards_K))  # in the order of first appearance
    offset_F = np.concatenate([[0], np.cumsum(list(shards_F.values()))]).astype(np.int64)
    return offset_F[[*sources, -1]]


@dataclass(frozen=True, kw_only=True)
class Addressing:
    """Draws to addresses, for all domains of a plan.

    Domain 0 has shards of 3 and 2 samples, domain 1 one shard of 4. A batch takes draw 3 of the first and draw 0 of the
    second. Without shuffling, draw 3 of domain 0 is the first row of its second shard:

    >>> views = WholeShards(samples_S=np.array([3, 2])), WholeShards(samples_S=np.array([4]))
    >>> orders = tuple(
    ...     Order(name=name, seed=0, samples_S=view.samples_S, owned_L=owned_L, shuffle=False, block_size=8)
    ...     for name, view, owned_L in zip(["code", "web"], views, [np.array([5]), np.array([4])])
    ... )
    >>> addressing = Addressing(orders=orders, views=views, lanes=1)
    >>> rows = Rows(step=0, domain_B=np.array([0, 1], dtype=np.int32), draw_B=np.array([3, 0]))
    >>> (at,) = addressing.locate([rows], slice(0, 2))
    >>> at.shard_B.tolist(), at.row_B.tolist()
    ([1, 2], [0, 0])

    Args:
        orders: one per domain, in the plan's order.
        views: one per domain, in the plan's order.
        lanes: lanes of the plan.
        source_K: the source of each domain, as for `shard_offsets`; each its own if not given.
    """

    orders: tuple[Order, ...]
    views: tuple[View, ...]
    lanes: int
    source_K: tuple[int, ...] | None = None
    _tables: dict[str, LayoutTable] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def shard_offset_K(self) -> Int64:
        """The number of each domain's first shard when shards are counted over all domains, int64 [K + 1]."""
        return shard_offsets([len(view.samples_S) for view in self.views], self.source_K)

    def locate(self, batches: Sequence[Rows], part: slice) -> list[Addresses]:
        """Return the addresses of the rows `part` of each global batch.

        Passing several batches at once is cheaper than one by one: the cost per domain is paid once.
        """
        found, _ = self.locate_together(batches, part)
        shape = len(batches), -1
        return list(map(_make_addresses, *(of.reshape(shape) for of in (found.domain_B, found.shard_B, found.row_B))))

    def locate_together(self, batches: Sequence[Rows], part: slice) -> tuple[Addresses, Sequence[int]]:
        """Return the addresses of the rows `part` of all global batches in one record, and where each batch ends."""
        domain_B = np.concatenate([rows.domain_B[part] for rows in batches], dtype=np.int64)
        draw_B = np.concatenate([rows.draw_B[part] for rows in batches])
        lane_R = np.arange(total := len(batches[0].domain_B))[part] // (total // self.lanes)
        try:
            found_2B = self._find_in_table(domain_B, lane_R, draw_B)
        except NotCompiledError:
            found_2B = self._find_by_domain(domain_B, np.tile(lane_R, len(batches)), draw_B)
        found, rows = _make_addresses(domain_B, *found_2B), len(lane_R)
        return found, range(rows, rows * len(batches) + 1, rows)

    def _find_by_domain(
        self, domain_B: Int64, lane_B: Int64, draw_B: Int64, table: LayoutTable | None = None
    ) -> tuple[Int64, Int64]:
        """Return (shard_B, row_B), int64 [B], of draws, by one call for each domain and lane.

        The layouts that are asked for are noted in `table`.
        """
        shard_B, row_B = np.empty_like(draw_B), np.empty_like(draw_B)
        for domain, lane, here in self._groups(domain_B, lane_B):
            draw_n = draw_B[here]
            shard_B[here], row_B[here] = self._find(domain, lane, draw_n)
            if table is not None:
                order, length = self.orders[domain], self.orders[domain].run_length(lane)
                for epoch in {int(draw_n[0]) // length, int(draw_n[-1]) // length}:
                    table.note(domain, lane, epoch, order.layout(lane, epoch))
        return shard_B, row_B

    def _groups(self, domain_B: Int64, lane_B: Int64) -> Iterator[tuple[int, int, Int64]]:
        """Yield each domain and lane with its rows, int64, rising."""
        group_B = domain_B if self.lanes == 1 else domain_B * self.lanes + lane_B
        if len(self.orders) * self.lanes <= np.iinfo(np.int16).max:
            group_B = group_B.astype(np.int16)  # sorted by their digits, which is quicker
        by_group = np.argsort(group_B, kind="stable")
        group_B = group_B[by_group]
        bounds = [0, *(np.flatnonzero(group_B[1:] != group_B[:-1]) + 1).tolist(), len(group_B)]
        for begin, end in pairwise(bounds) if len(group_B) else ():
            yield *divmod(int(group_B[begin]), self.lanes), by_group[begin:end]

    def _find_in_table(self, domain_B: Int64, lane_R: Int64, draw_B: Int64) -> tuple[Int64, Int64]:
        """Return (shard_B, row_B), int64 [B], of draws: those of a table by one call. R rows of each batch.

        Raises:
            NotCompiledError: numba is not loaded; a table is of no use without it.
        """
        lanes = {0} if self.lanes == 1 else {*distinct(lane_R).tolist()}
        table = self._tables.get("now")
        if table is None or not lanes <= set(table.lanes):
            known = () if table is None else table.lanes
            table = self._tables["now"] = LayoutTable.of_lanes(sorted({*known, *lanes}), self.orders)
        shard_B, row_B, missing = table.find(
            domain_B=domain_B, lane_R=lane_R, draw_B=draw_B, shuffle=self.orders[0].shuffle
        )
        rest_B = np.flatnonzero(shard_B < 0)[:missing]
        if self._cut_K.any():  # domains that are read through a view
            cut_B = np.flatnonzero(self._cut_K[domain_B] & (shard_B >= 0))
            for domain, _, of_cut in self._groups(domain_B[cut_B], np.zeros_like(cut_B)):
                here = cut_B[of_cut]
                row_B[here] = self.views[domain].rows(shard_B[here], row_B[here])
        shard_B += self.shard_offset_K[domain_B]
        if missing:
            lane_B = lane_R[rest_B % len(lane_R)]
            shard_B[rest_B], row_B[rest_B] = self._find_by_domain(domain_B[rest_B], lane_B, draw_B[rest_B], table)
            self._tables["now"] = table.with_news()
        return shard_B, row_B

    @cached_property
    def _cut_K(self) -> NDArray[np.bool_]:
        """Which domains have other rows than the stored ones, bool [K]."""
        return np.array([type(view) is not WholeShards for view in self.views])

    def of_draws(self, *, domain: int, lane: int, draw_B: Int64) -> Addresses:
        """Return the addresses of the draws `draw_B`, int64 [B], of one domain in one lane."""
        shard_B, row_B = self._find(domain, lane, draw_B)
        return Addresses(domain_B=np.full(len(draw_B), domain, dtype=np.int64), shard_B=shard_B, row_B=row_B)

    def _find(self, domain: int, lane: int, draw_B: Int64) -> tuple[Int64, Int64]:
        """Return (shard_B, row_B), int64 [B], of draws; shards are counted over all domains."""
        shard_B, sample_B = self.orders[domain].find(lane=lane, draw_B=draw_B)
        return shard_B + self.shard_offset_K[domain], self.views[domain].rows(shard_B, sample_B)
