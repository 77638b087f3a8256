"""All domains together: (domain, draw) -> address -> bytes.

The plan speaks of domains in its canonical order and of draws; here they become (domain as the user listed it, shard,
row), and rows of columns or decoded samples.

Shape suffixes: B rows, K domains, L lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.collate import Column, batch_columns
from mixstream.domain import Domain, OpenShards
from mixstream.formats import ShardInfo, mds_decode
from mixstream.gather import Field, field_span, gather
from mixstream.order import Order
from mixstream.types import Int64, Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where rows lie: int64 [B] each; `domain_B` counts domains as the user listed them."""

    domain_B: Int64
    shard_B: Int64
    row_B: Int64

    def __getitem__(self, part: slice) -> Addresses:
        return Addresses(domain_B=self.domain_B[part], shard_B=self.shard_B[part], row_B=self.row_B[part])

    def __len__(self) -> int:
        return len(self.domain_B)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The domains of a dataset, as the user listed them, with the shards that are open."""

    domains: tuple[Domain, ...]
    opened: OpenShards = field(default_factory=OpenShards)

    @cached_property
    def _shard_offset_K(self) -> Int64:
        counts = [len(domain.index.shards) for domain in self.domains]
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    @cached_property
    def _kinds(self) -> tuple[list[ShardInfo], Int64]:
        """Distinct record layouts (one shard of each), and which one every shard of the corpus has."""
        kinds: dict[tuple[Any, ...], int] = {}
        examples, of_shard = [], []
        for domain in self.domains:
            for shard in domain.index.shards:
                layout = (shard.column_names, shard.column_encodings)
                if layout not in kinds:
                    kinds[layout] = len(kinds)
                    examples.append(shard)
                of_shard.append(kinds[layout])
        return examples, np.asarray(of_shard, dtype=np.int64)

    def columns(self, *, widen: bool) -> dict[str, Column] | None:
        """Return the columns of a gathered batch; None if samples have to be collated one by one."""
        return batch_columns([shard.columns for shard in self._kinds[0]], widen=widen)

    def sample(self, domain: int, shard: int, row: int) -> dict[str, Any]:
        """Return one decoded sample."""
        return self.domains[domain].sample(shard, row, self.opened)

    def gather(self, at: Addresses, columns: dict[str, Column], alloc: Any) -> dict[str, NDArray[Any]] | None:
        """Return the columns of the rows at `at`; None if some row does not have the others' shape.

        Args:
            at: the rows' addresses.
            columns: from `columns`.
            alloc: `(column, dtype, shape) -> array`, where the rows are written.
        """
        key_B = self._shard_offset_K[at.domain_B] + at.shard_B
        used, slot_B = np.unique(key_B, return_inverse=True)
        domain_of = np.searchsorted(self._shard_offset_K, used, side="right") - 1
        shards = [
            self.domains[d].shard(s, self.opened)
            for d, s in zip(domain_of.tolist(), (used - self._shard_offset_K[domain_of]).tolist())
        ]
        kind_B = self._kinds[1][key_B]
        out: dict[str, NDArray[Any]] = {}
        for kind in np.unique(kind_B).tolist():
            to_B = np.flatnonzero(kind_B == kind)
            for name, column in columns.items():
                found = self._field(kind, name, at, int(to_B[0]))
                if found is None:
                    return None
                form, shape = found
                if name not in out:
                    out[name] = alloc(name, column.dtype, (len(at), *shape))
                if out[name].shape[1:] != shape:
                    return None
                flat = out[name].reshape(len(at), form.elements)
                if gather(shards, slot_B[to_B], at.row_B[to_B], form, flat, to_B) >= 0:
                    return None
        return out

    def _field(self, kind: int, name: str, at: Addresses, example: int) -> tuple[Field, tuple[int, ...]] | None:
        """Return how to gather column `name` of this kind of record, and the shape of a row."""
        from mixstream.formats import fixed_array

        info = self._kinds[0][kind]
        column = info.column_names.index(name)
        sizes_C = np.array([-1 if size is None else size for size in info.column_sizes], dtype=np.int64)
        encoding = info.column_encodings[column]
        if (fixed := fixed_array(encoding)) is not None:
            dtype, shape = fixed
            elements = int(np.prod(shape, dtype=np.int64))
            return Field(column=column, sizes_C=sizes_C, dtype=dtype, elements=elements), shape
        domain, shard, row = (int(a[example]) for a in (at.domain_B, at.shard_B, at.row_B))
        record = np.frombuffer(self.domains[domain].sample_bytes(shard, row, self.opened), dtype=np.uint8)
        span = field_span(record, Field(column=column, sizes_C=sizes_C, dtype=np.dtype(np.uint8), elements=0))
        if span is None:
            return None
        payload = record[span[0] : span[1]].tobytes()
        value = mds_decode(encoding, payload)
        header = payload[: len(payload) - value.nbytes]
        return Field(column=column, sizes_C=sizes_C, dtype=value.dtype, elements=value.size, header=header), value.shape


@dataclass(frozen=True, kw_only=True)
class Addressing:
    """draw -> address, for the plan's domains.

    Args:
        orders: one per domain, in the plan's order.
        domain_K: int64 [K], the index of each as the user listed them.
        lanes: lanes of the plan.
    """

    orders: tuple[Order, ...]
    domain_K: Int64
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
            _, shard_B[here], row_B[here] = self.orders[domain].locate(lane=lane, draw_B=draw_B[here])
        found = Addresses(domain_B=self.domain_K[domain_B], shard_B=shard_B, row_B=row_B)
        size = len(found) // len(batches)
        return [found[i * size : (i + 1) * size] for i in range(len(batches))]
